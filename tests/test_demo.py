"""The demo as somebody uses it: served by its command, asked by gradio's client, and opened in Debian's chromium."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import timm
import torch
import torchvision
from PIL import Image
from records import write_study
from test_browser import chromium, luminance  # noqa: F401 - a fixture
from torch import nn

import roadmap
from analysis.sources.load import load
from analysis.statistics.comparison import Comparison, comparisons
from analysis.statistics.ladder import ladder_table
from experiments.data.readers.sample import CLASSES, load_sample
from experiments.launch.worker import train_recorded
from experiments.records.schema import class_names_of
from roadmap import Design

if not os.environ.get("CI"):  # where its absence is a failure
    pytest.importorskip("gradio", reason="needs gradio: the extra demo")
pytestmark = pytest.mark.xdist_group("browser")  # one browser at a time

HOSTILE = "<img src=x onerror=\"document.title='hacked'\"> ${document.title='hacked'} {{value}} <script>1</script>"
LISTENING = """
import socket, sys
connect = socket.socket.connect
def local(self, address):
    if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1"):
        print("OUTSIDE", address, file=sys.stderr, flush=True)
        raise OSError("there is no network")
    return connect(self, address)
lookup = socket.getaddrinfo
def local_lookup(host, *rest, **options):
    if host not in (None, "", "localhost", "127.0.0.1", b"localhost", b"127.0.0.1"):
        print("OUTSIDE", host, file=sys.stderr, flush=True)
        raise OSError("there is no network")
    return lookup(host, *rest, **options)
socket.socket.connect, socket.getaddrinfo = local, local_lookup
from experiments.demo.__main__ import main
sys.exit(main())
"""
"""The command, in a process that reports whatever it would send to elsewhere."""


class Served(NamedTuple):
    url: str
    process: subprocess.Popen
    folder: Path
    """For temporary files."""
    log: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, run_of: Callable, tiny: tuple[str, ...]) -> Path:
    """Three rungs, one of which is a side branch, with weights of half a second's training; the names of one record are
    an attack."""
    folder = tmp_path_factory.mktemp("demo") / "runs"
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    for rung in ("move_up_depthwise", "kernel_5", "kernel_7"):
        run = run_of(f"rung={rung}", *tiny[2:], f"runs={folder}")
        assert train_recorded(run) == 0
    for number, handler in handlers.items():  # a run takes over the process's signals
        signal.signal(number, handler)
    assert class_names_of(run.directory, 10) == CLASSES
    (run.directory / "classes.json").write_text(json.dumps([HOSTILE] * 10))
    config = json.loads((run.directory / "config.json").read_text())
    for rung in config["road"]["rungs"]:
        rung["title"] = HOSTILE if rung["name"] == "kernel_7" else rung["title"]
    (run.directory / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def served(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("temporary")
    port = free_port("127.0.0.1")
    log = folder.with_name("server.log")
    words = [sys.executable, "-c", LISTENING, str(runs), "--port", str(port)]
    environment = os.environ | {"TMPDIR": str(folder), "PYTHONPATH": str(Path(__file__).parents[1])}
    with log.open("w") as output:
        process = subprocess.Popen(words, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        while "open http" not in log.read_text():
            with suppress(subprocess.TimeoutExpired):
                pytest.fail(f"the server ended with {process.wait(0.2)}: {log.read_text()}")
        yield Served(f"http://127.0.0.1:{port}/", process, folder, log)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ask(served: Served) -> Callable[[Any], tuple[str, str, str]]:
    """What the page shows for an uploaded file: (the road, the chosen rung's step, a message), as HTML."""
    from gradio_client import Client, handle_file

    client = Client(served.url, verbose=False)

    def asked(picture: Any) -> tuple[str, str, str]:
        path = handle_file(picture) if isinstance(picture, Path) else picture
        shown = client.predict(path, api_name="/answer")
        return tuple(value if isinstance(value, str) else "" for value in shown)

    return asked


@pytest.fixture(scope="module")
def boot() -> Image.Image:
    _, test = load_sample()
    return test.image(0)


def text_of(html: str) -> str:
    return " ".join(re.sub("<[^>]*>", " ", html).split())


def test_the_answers_are_the_networks(ask: Callable, runs: Path, boot: Image.Image, tmp_path: Path) -> None:
    """Class and probability, computed once more with torch alone."""
    boot.save(tmp_path / "boot.png")
    road, _, message = ask(tmp_path / "boot.png")
    assert message == ""
    [run] = runs.glob("*-kernel_5-*")
    design = roadmap.conf.to_design(json.loads((run / "config.json").read_text())["design"])
    network = roadmap.build(design, 10).eval()
    network.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
    pixels = torch.from_numpy(np.pad(np.asarray(boot), ((2, 2), (2, 2), (0, 0)))).permute(2, 0, 1)[None] / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.inference_mode():
        value, label = network((pixels - mean) / std).softmax(1)[0].max(0)
    [card] = re.findall(r'<button[^>]*data-number="1".*?</button>', road, re.DOTALL)
    assert f"{CLASSES[label]} {100 * value:.0f} %" in text_of(card)
    assert "kernel size 5 not adopted" in text_of(card)
    assert len(re.findall('data:image/webp;base64,[^"]{200,}', road)) == 3


def test_what_is_no_picture_is_said_in_one_line(ask: Callable, boot: Image.Image, tmp_path: Path) -> None:
    Image.new("1", (9000, 9000)).save(tmp_path / "vast.png")
    Image.new("1", (1, 10000)).save(tmp_path / "line.png")
    sideways_and_wide = struct.pack("<IHHHI4sHHIII", 8, 2, 0x0100, 2, 4, b"wide", 0x0112, 3, 1, 6, 0)
    boot.save(tmp_path / "exif.jpg", exif=b"Exif\0\0II*\0" + sideways_and_wide)
    boot.save(tmp_path / "boot.tiff")
    whole = tmp_path / "whole.png"
    boot.save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-60])
    (tmp_path / "text.png").write_text(HOSTILE)
    (tmp_path / "picture.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>")
    (tmp_path / "empty.png").touch()
    unknown = "not an image of a known format"
    for name, reason in {
        "vast.png": "9000 x 9000 px, more than 50 million pixels",
        "line.png": "1 x 10000 px, one side more than 20 times as long as the other",
        "exif.jpg": "its Exif data are damaged",
        "cut.png": "truncated",
        "text.png": unknown,
        "picture.svg": unknown,
        "boot.tiff": unknown,
        "empty.png": unknown,
    }.items():
        road, _, message = ask(tmp_path / name)
        assert road.count("<button") == 3
        assert "%" not in text_of(road)
        assert text_of(message).startswith("cannot read the image that was uploaded: ")
        assert reason in message


def test_it_fetches_nothing_and_reads_only_what_was_uploaded(served: Served) -> None:
    """Asked without gradio's client, which would upload."""
    import httpx

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.5)
        address = f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
        for path in (address, "https://example.org/x.png", str(Path(__file__))):
            picture = {"path": path, "url": path, "meta": {"_type": "gradio.FileData"}}
            call = httpx.post(f"{served.url}gradio_api/call/answer", json={"data": [picture]})
            answer = httpx.get(f"{served.url}gradio_api/call/answer/{call.json()['event_id']}", timeout=60)
            assert "event: error" in answer.text
        with pytest.raises(TimeoutError):
            listening.accept()
    assert "OUTSIDE" not in served.log.read_text()


def test_no_other_site_reaches_it(served: Served) -> None:
    """By a name of its own for this machine's address."""
    import httpx

    assert httpx.get(served.url).status_code == 200
    assert httpx.get(served.url, headers={"Host": "evil.example"}).status_code == 400


def free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return free.getsockname()[1]


def test_no_other_site_reaches_another_local_address(monkeypatch: pytest.MonkeyPatch) -> None:
    import gradio as gr
    import httpx

    from experiments.demo import server

    port, statuses = free_port("127.0.0.2"), {}

    class Asked:
        """Instead of waiting for Ctrl-C."""

        def wait(self) -> None:
            for host in (f"127.0.0.2:{port}", "evil.example"):
                statuses[host] = httpx.get(f"http://127.0.0.2:{port}/", headers={"Host": host}).status_code
            raise KeyboardInterrupt

    monkeypatch.setattr(server, "Event", Asked)
    monkeypatch.setattr(server, "signal", lambda *_: None)
    with gr.Blocks(analytics_enabled=False) as blocks:
        gr.HTML("a page")
    server.serve(blocks, "127.0.0.2", port)
    assert statuses == {f"127.0.0.2:{port}": 200, "evil.example": 400}


def test_no_other_page_uploads_to_it(served: Served) -> None:
    import httpx

    def upload(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"{served.url}gradio_api/upload", files={"files": ("x.png", b"x")}, headers=sent).status_code

    own = served.url.rstrip("/")
    assert upload() == 200
    assert upload(origin=own, sec_fetch_site="same-origin") == 200
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", f"{own}.evil.example"):
        assert upload(origin=origin) == 403
    for site in ("cross-site", "same-site"):  # the latter is a page of another port
        assert upload(sec_fetch_site=site) == 403


def test_large_uploads_are_refused_before_they_arrive(served: Served) -> None:
    connection = HTTPConnection(served.url.split("/")[2], timeout=10)
    connection.putrequest("POST", "/gradio_api/upload")
    connection.putheader("Content-Length", "20100000")
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()


def open_page(chromium: Any, served: Served, wait_for: Callable, width: int = 1280, scheme: str = "light") -> None:  # noqa: F811
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    chromium.get_log("performance")
    chromium.get(served.url)
    wait_for(lambda: len(chromium.find_elements("css selector", ".card")) == 3)


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (400, "light"), (400, "dark")])
def test_the_page(chromium: Any, served: Served, wait_for: Callable, width: int, scheme: str) -> None:  # noqa: F811
    """Opens with an example, fits the screen, is read easily, and asks no other machine; a rung that is chosen by
    keyboard shows its step and effect."""
    from selenium.webdriver.common.keys import Keys

    open_page(chromium, served, wait_for, width, scheme)
    assert chromium.title == "Every rung answers"
    assert "document.title" in chromium.find_element("css selector", ".card[data-number='2']").text
    card = chromium.find_element("css selector", ".card[data-number='1']")
    assert "not adopted" in card.text
    card.send_keys(Keys.ENTER)
    wait_for(lambda: chromium.find_elements("css selector", ".effect h2"))
    effect = chromium.find_element("css selector", ".effect").text
    assert "looks at 5x5 positions instead of 3x3" in effect
    assert "kernel size 3 5" in effect
    assert "+0.43 points: 79.92 % before, 80.35 % after. (ImageNet-1K, networks of the size of ResNet-50)" in effect
    assert card.get_attribute("aria-pressed") == "true"
    assert chromium.execute_script("return document.documentElement.scrollWidth") <= width
    assert contrasts(chromium, scheme) == []
    chromium.find_element("css selector", ".effect .close").click()
    wait_for(lambda: not chromium.find_elements("css selector", ".effect h2"))

    events = [json.loads(entry["message"])["message"] for entry in chromium.get_log("performance")]
    asked = {event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"}
    foreign = {url for url in asked if not url.startswith((served.url, "data:", "blob:", "chrome:"))}
    assert not foreign
    assert [entry["message"] for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def contrasts(chromium: Any, scheme: str) -> list[str]:  # noqa: F811
    """The texts with less contrast than WCAG AA's 4.5, on the page's background and on that of a chosen card."""
    background = chromium.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.1) == (scheme == "dark")
    chosen = chromium.execute_script(
        "return getComputedStyle(document.querySelector('[aria-pressed=true]')).backgroundColor"
    )
    words = "h1, h2, p, th, td, dt, dd, .title, .name, .percent, .mark, .ms, .tag"
    colours = chromium.execute_script(
        f"return [...new Set([...document.querySelectorAll('{words}')].filter(each => each.innerText)"
        ".map(each => getComputedStyle(each).color))]"
    )
    assert len(colours) >= 3
    low = []
    for colour in colours:
        for behind in (background, chosen):
            high, lower = sorted((luminance(colour), luminance(behind)), reverse=True)
            low += [f"{colour} on {behind}"] if (high + 0.05) / (lower + 0.05) < 4.5 else []
    return low


def test_an_example_is_marked_right_or_wrong(chromium: Any, served: Served, wait_for: Callable) -> None:  # noqa: F811
    open_page(chromium, served, wait_for)
    first = chromium.find_element("css selector", "#road").text
    chromium.find_elements("css selector", ".examples button")[3].click()
    wait_for(lambda: chromium.find_element("css selector", "#road").text != first)
    marks = [mark.text for mark in chromium.find_elements("css selector", ".mark")]
    assert len(marks) == 2  # of the third, classes are called otherwise
    assert {*marks} <= {"✓ right", "✗ wrong"}


UNCOVERED = """
const box = arguments[0].getBoundingClientRect();
return arguments[0].contains(document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2));
"""
"""Whether the middle of an element is on the screen, and nothing over it."""


@pytest.mark.parametrize("width", [1280, 400])
def test_a_picture_is_removed_and_another_one_uploaded(
    chromium: Any,  # noqa: F811
    served: Served,
    wait_for: Callable,
    tmp_path: Path,
    width: int,
) -> None:
    """Its answers are its own: they go with it, and what is no picture has none. A chosen rung stays chosen,
    and does not hide an error."""

    def has_answers() -> bool:
        road = chromium.find_element("css selector", "#road")
        return bool(road.find_elements("css selector", ".percent, .mark, img"))

    Image.effect_noise((300, 200), 90).save(tmp_path / "noise.jpg")
    (tmp_path / "text.png").write_text("no picture")
    open_page(chromium, served, wait_for, width)
    chromium.find_element("css selector", ".card[data-number='1']").click()
    wait_for(lambda: chromium.find_elements("css selector", ".mark"))
    for name in ("noise.jpg", "text.png"):
        wait_for(lambda: "This picture" in chromium.find_element("css selector", ".effect").text)
        chromium.execute_script("document.querySelector(\"#picture button[aria-label='Remove Image']\").click()")
        wait_for(lambda: not has_answers())
        wait_for(lambda: "This picture" not in chromium.find_element("css selector", ".effect").text)
        [file] = wait_for(lambda: chromium.find_elements("css selector", "#picture input[type=file]"))
        file.send_keys(str(tmp_path / name))
        if name == "noise.jpg":
            wait_for(has_answers)
            assert not chromium.find_elements("css selector", ".mark")
    assert chromium.find_element("css selector", ".card[aria-pressed=true] .title").text.startswith("kernel size 5")
    wait_for(lambda: chromium.find_elements("css selector", ".message"))
    message = chromium.find_element("css selector", ".message")
    assert "not an image" in message.text
    assert chromium.execute_script(UNCOVERED, message)
    assert not has_answers()


def test_nothing_is_left_when_it_ends(ask: Callable, served: Served, boot: Image.Image, tmp_path: Path) -> None:
    boot.save(tmp_path / "boot.png")
    ask(tmp_path / "boot.png")
    assert list(served.folder.rglob("*.png"))
    served.process.terminate()
    served.process.wait(30)
    assert list(served.folder.iterdir()) == []
    assert "OUTSIDE" not in served.log.read_text()


def ours() -> tuple[nn.Module, Callable, nn.Linear]:
    network = roadmap.build(Design(width=4, depths=(1, 1, 1, 1), stem_stride=2), 5)
    return network, lambda image: network.features(image)[-1], network.classifier


def timms() -> tuple[nn.Module, Callable, nn.Linear]:
    network = timm.create_model("test_resnet", num_classes=5)
    return network, network.forward_features, network.get_classifier()


def swins() -> tuple[nn.Module, Callable, nn.Linear]:
    """Of maps whose channels are last."""
    sizes: dict[str, Any] = {"img_size": 128, "window_size": 4, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
    network = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **sizes)
    return network, lambda image: network.forward_features(image).permute(0, 3, 1, 2), network.get_classifier()


@pytest.mark.parametrize("make", [ours, timms, swins])
def test_the_map_is_the_class_activation_map(make: Callable) -> None:
    """Of a network whose last maps are pooled and classified linearly: Zhou et al.'s sum of maps by weights."""
    from experiments.demo.activation_map import activation_map

    torch.manual_seed(0)
    network, maps_of, classifier = make()
    network.eval()
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        expected = torch.einsum("kc,chw->khw", classifier.weight, maps_of(image)[0])
    assert (expected.amax((1, 2)) > 0).any()
    for label, positive in enumerate(expected.relu()):
        shown = activation_map(network, image, label)
        np.testing.assert_allclose(shown, positive / positive.max().clamp(min=1e-9), atol=1e-5)


def test_published_networks_answer_as_published(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for downloaded weights: the library's transform and names of classes are used."""
    from experiments.demo import answers, networks
    from experiments.evaluate import model

    reference = torchvision.models.resnet50().eval()
    monkeypatch.setattr(model, "read_weights", lambda init: reference.state_dict())
    network = networks.published("torchvision:resnet50.IMAGENET1K_V2")
    picture = Image.effect_mandelbrot((300, 260), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    answer = answers.answer(network, picture)
    preset = torchvision.models.ResNet50_Weights.IMAGENET1K_V2
    with torch.inference_mode():
        label = int(reference(preset.transforms()(picture)[None]).argmax())
    assert answer.classes[0][0] == preset.meta["categories"][label]
    assert answer.map is not None
    assert answer.map.shape == (7, 7)


def test_maps_of_small_images_are_those_of_a_deeper_stage() -> None:
    from experiments.demo.activation_map import activation_map

    network = roadmap.build(Design(width=4, depths=(1, 1, 1, 1), stem_stride=2, downsampling="separate"), 5).eval()
    assert activation_map(network, torch.randn(1, 3, 32, 32), 0).shape == (4, 4)


def test_maps_of_an_unknown_layout_are_not_shown() -> None:
    from experiments.demo.answers import answer
    from experiments.demo.networks import DemoNetwork
    from experiments.demo.page import Demo
    from experiments.evaluate.model import TransformSettings

    module, *_ = timms()
    module.output_fmt = "NLC"  # type: ignore[assignment]
    network = DemoNetwork("resnet", "Networks", module.eval(), CLASSES[:5], TransformSettings(64))
    given = answer(network, Image.effect_noise((80, 80), 90).convert("RGB"))
    assert given.map is None
    assert "no map" in text_of(Demo([network]).road([given], None, None))


def run_demo(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    from experiments.demo.__main__ import main

    return main(arguments), capsys.readouterr().err


def test_code_of_others_is_not_run(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    [run] = runs.glob("*-kernel_5-*")
    copy = tmp_path / "runs" / run.name
    shutil.copytree(run, copy)
    config = json.loads((copy / "config.json").read_text())
    config["design"]["layers"] = {"evil": {"at": "hidden", "_target_": "antigravity.Evil"}}
    (copy / "config.json").write_text(json.dumps(config))
    code, error = run_demo(str(tmp_path / "runs"), capsys=capsys)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "antigravity.Evil" in error
    assert "trust=true (--trust in experiments.export and experiments.demo) allows that" in error
    assert "antigravity" not in sys.modules


def test_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    def refuse(*_: object) -> None:
        raise OSError("there is no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    code, error = run_demo("--weights", "torchvision:resnet18.IMAGENET1K_V1", capsys=capsys)
    assert code == 2
    assert len(error.splitlines()) == 1
    assert "torchvision:resnet18.IMAGENET1K_V1 cannot be loaded" in error


def test_without_runs_it_says_what_to_do(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, error = run_demo(capsys=capsys)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "make ladder" in error


@pytest.mark.parametrize(
    "words",
    ["--port 0", "--port 99999", "--port x", "--host nosuch.invalid", "--host ::1", "--host a..b", "--host 192.0.2.1"],
)
def test_an_address_that_cannot_be_served_is_refused_in_one_line(words: str, capsys) -> None:
    from experiments.demo.__main__ import main

    try:
        code = main(["no-runs", *words.split()])
    except SystemExit as refused:
        code = refused.code
    error = capsys.readouterr().err
    assert (code, len(error.splitlines())) == (2, 1)
    option, value = words.split()
    assert option in error
    assert value in error


def test_a_taken_port_is_refused_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, error = run_demo("no-runs", "--port", str(other.getsockname()[1]), capsys=capsys)
    assert (code, len(error.splitlines())) == (2, 1)
    assert "Address already in use; choose another --host or --port" in error


def test_ctrl_c_while_it_loads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    from experiments.demo import content

    monkeypatch.setattr(content, "demo_of", interrupt)
    assert run_demo("no-runs", capsys=capsys) == (130, "")


@pytest.mark.parametrize("names", ["{", "[]", '{"a": 1}', "[1, 2]", '["only one"]', "[" * 5000])
def test_names_of_classes_that_cannot_be_used_are_none(names: str, tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(names)
    assert class_names_of(tmp_path, 2) is None


def test_names_of_classes_are_printable_and_short(tmp_path: Path) -> None:
    (tmp_path / "classes.json").write_text(json.dumps(["\x1b[31mred", "x" * 5000]))
    assert class_names_of(tmp_path, 2) == ("\\x1b[31mred", "x" * 100)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """Of synthetic records."""
    folder = tmp_path_factory.mktemp("study")
    write_study(folder)
    return comparisons(load([str(folder)]))[0]


def test_an_effect_says_what_is_corrected(study: Comparison) -> None:
    """An interval may exclude zero without the effect being shown, as only the verdict is corrected."""
    from experiments.demo.effects import effects_of

    effects, ladder = effects_of(study), ladder_table(study).set_index("rung")
    steps = ladder["change"].notna().sum()
    hint = ladder[(ladder["low"] > 0) & (ladder["p_holm"] >= 0.05)].iloc[0]
    limits = f"(95 % interval +{hint.low:.2f} to +{hint.high:.2f}, not corrected)"
    verdict = f"once corrected for {steps} steps it is not shown to differ from zero (p = {hint.p_holm:.2g}"
    assert f"+{hint.change:.2f} points against " in effects[hint.name].measured
    assert f"{limits}; {verdict}" in effects[hint.name].measured
    shown = ladder.index[ladder["verdict"] == "up"][0]
    assert f"once corrected for {steps} steps it is shown to differ from zero (p " in effects[shown].measured


def test_a_step_names_the_rung_that_it_starts_from(study: Comparison) -> None:
    """On its card if that is not the card before it: the kernel sizes are compared with the same rung, side by side."""
    from experiments.demo.effects import effects_of
    from experiments.demo.networks import DemoNetwork
    from experiments.demo.page import Demo
    from experiments.evaluate.model import TransformSettings

    shown = nn.Identity(), CLASSES, TransformSettings()
    names = ("move_up_depthwise", "kernel_5", "kernel_7", "kernel_9", "kernel_11", "gelu")
    rungs = [study.road[name] for name in names]
    demo = Demo([DemoNetwork(rung.title, "2.5", *shown, rung=rung.name) for rung in rungs], effects_of(study))
    cards = [text_of(card) for card in re.findall("<button.*?</button>", demo.road([], None, None), re.DOTALL)]
    assert cards == [
        "move up depthwise conv from inverting dimensions",  # which is not shown
        "kernel size 5",
        "kernel size 7 from move up depthwise conv",
        "kernel size 9 from move up depthwise conv",
        "kernel size 11 from move up depthwise conv",
        "ReLU to GELU from kernel size 7",
    ]
    assert "kernel size 9 from move up depthwise conv" in text_of(demo.effect(3, []))


def test_the_page_says_that_its_times_are_no_measurement() -> None:
    from experiments.demo.page import TEMPLATES, Demo

    notes = text_of(TEMPLATES.get_template("notes.html.j2").render(demo=Demo([]), threads="1 thread"))
    assert "on a busy machine the times of two cards do not compare" in notes
    assert "python -m experiments.latency" in notes


def test_all_settings_of_a_step_can_be_seen(study: Comparison) -> None:
    """The last of a long list, and those that stay as they are, such as the size of the stem's patches."""
    from experiments.demo.effects import effects_of
    from experiments.demo.networks import DemoNetwork
    from experiments.demo.page import Demo
    from experiments.evaluate.model import TransformSettings

    def settings(rung: str) -> dict[str, Any]:
        run = study.counted[study.counted["rung"] == rung].iloc[0]
        return {key: value for key, value in (run["recipe"] | run["design"]).items() if key != "name"}

    shown = nn.Identity(), CLASSES, TransformSettings()
    steps = [DemoNetwork(name, "2", *shown, rung=name) for name in ("modern_recipe", "patchify_stem")]
    demo = Demo(steps, effects_of(study))
    before, after = settings("resnet"), settings("modern_recipe")
    changed = [key for key in before if before[key] != after[key]]
    recipe, stem = text_of(demo.effect(0, [])), text_of(demo.effect(1, []))
    assert len(changed) > 10
    assert [key for key in changed if f" {key.replace('_', ' ')} " not in recipe.split("what stays as it is")[0]] == []
    assert "stem stride 2 ;" in stem.split("what stays as it is")[1]
