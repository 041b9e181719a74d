"""The report in a browser: Debian's chromium, without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from records import write_run
from studies import write_everything

from analysis.report.__main__ import main

HOSTILE = '<script>document.title="hacked"</script></style><img src="https://evil.example/x.png">'
pytestmark = pytest.mark.xdist_group("browser")  # one browser at a time


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The report of a whole study, of a run that failed, and of one whose names are an attack."""
    folder = tmp_path_factory.mktemp("browser")
    write_everything(folder / "runs")
    write_run(folder / "runs", "gelu", seed=8, status="failed", summary={"reason": HOSTILE})
    other = {"config": {"data": {"name": HOSTILE}}, "summary": {"device": HOSTILE}}
    write_run(folder / "runs", "gelu", seed=0, **other)
    assert main([str(folder / "runs"), "--margin", "0.5", "--out", str(folder / "out")]) == 0
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory) -> Iterator:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    browser, driver = (shutil.which(name) for name in ("chromium", "chromedriver"))
    if not (browser and driver):
        if os.environ.get("CI"):
            pytest.fail("chromium and chromedriver are not installed (Debian: chromium, chromium-driver)")
        pytest.skip("needs chromium and chromedriver (Debian: chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    profile = tmp_path_factory.mktemp("profile")
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", f"user-data-dir={profile}"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options=options, service=Service(driver))
    yield found
    found.quit()


@pytest.fixture
def opened(chromium, page):
    """The page, as a wide and light screen shows it."""
    show(chromium, page)
    return chromium


def show(chromium, page: Path, width: int = 1280, scheme: str = "light") -> None:
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get(page.as_uri())


def test_no_error_and_no_request_leaves_the_page(chromium, page):
    chromium.get_log("performance")
    show(chromium, page)
    events = [json.loads(one["message"])["message"] for one in chromium.get_log("performance")]
    asked = {one["params"]["request"]["url"] for one in events if one["method"] == "Network.requestWillBeSent"}
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert chromium.get_log("browser") == []


def test_what_records_say_is_text(opened):
    assert opened.title == "Ablation report: From ResNet to ConvNeXt"
    assert opened.execute_script("return document.images.length") == 0
    text = opened.execute_script("return document.body.innerText")
    assert text.count(HOSTILE) >= 2


def test_every_figure_is_seen_and_named(opened):
    boxes = opened.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(one => {"
        " const box = one.getBoundingClientRect();"
        " return [box.width, box.height, one.getBBox().width, one.getAttribute('aria-label')] })"
    )
    assert len(boxes) >= 8
    for width, height, content, name in boxes:
        assert min(width, height, content) > 200
        assert name


def test_tables_sort_both_ways_by_mouse_and_keyboard_with_what_is_missing_last(opened):
    from selenium.webdriver.common.keys import Keys

    table = opened.find_element("css selector", "table.sortable")
    head = next(one for one in table.find_elements("css selector", "thead button") if one.text == "change")
    cell = head.find_element("xpath", "..")
    column = opened.execute_script("return arguments[0].cellIndex", cell)

    def values() -> list[str]:
        script = "return [...arguments[0].tBodies[0].rows].map(row => row.cells[arguments[1]].dataset.value)"
        return opened.execute_script(script, table, column)

    before = values()
    numbers = sorted(float(value) for value in before if value)
    head.click()
    assert cell.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in values()[:-1]] == numbers[::-1]
    assert values()[-1] == ""
    head.send_keys(Keys.ENTER)
    assert cell.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in values()[:-1]] == numbers
    assert values()[-1] == ""
    first = table.find_element("css selector", "thead tr:last-child button")
    first.click()  # the paper's order again
    assert values() == before


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_itself_never_scrolls_sideways(chromium, page, width):
    show(chromium, page, width)
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width


def luminance(colour: str) -> float:
    """WCAG's relative luminance of an `rgb(...)`."""
    channels = [int(number) / 255 for number in re.findall(r"\d+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_in_light_and_dark(chromium, page, scheme):
    """WCAG AA: a contrast of 4.5, in words, tables and figures."""
    show(chromium, page, scheme=scheme)
    background = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    words = "p, td, th button, h1, h2, h3, li, dt, dd, nav a"
    colours = chromium.execute_script(
        f"return [...new Set([...document.querySelectorAll('{words}')].map(one => getComputedStyle(one).color))]"
    )
    # Of figures the variables: text is drawn as paths, in these two.
    colours += chromium.execute_script(
        "return ['ink', 'muted'].map(name => { const one = document.createElement('i');"
        " one.style.color = getComputedStyle(document.documentElement).getPropertyValue('--fig-' + name) || "
        "({ink: '#1b2430', muted: '#5b6675'})[name]; document.body.append(one);"
        " const colour = getComputedStyle(one).color; one.remove(); return colour })"
    )
    for colour in colours:
        high, low = sorted((luminance(colour), luminance(background)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{colour} on {background}"
