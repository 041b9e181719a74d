"""How many seeds a study needs, negligible changes, and looks: against statsmodels, simulations and real launches."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from records import write_run
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_ind, ttost_paired

from analysis import comparisons, effect_table, ladder_table, load
from analysis.report.__main__ import main as report
from analysis.report.files import write_report
from analysis.report.tables import ReportTable
from analysis.statistics.estimates import compare, conclude, estimate
from analysis.statistics.looks import look_concerns
from analysis.statistics.noise import Scores
from analysis.statistics.power import planned_freedom, power_to_exclude, power_to_show, seeds_needed, seeds_to_exclude
from benchmarks.looks import Condition, simulate
from experiments.launch.study import Study
from experiments.plan.__main__ import main as plan
from experiments.records.record import set_status
from roadmap.common.statuses import Status

NOISE = 0.55


# How many seeds


def test_two_networks_need_as_many_seeds_as_the_textbook_says() -> None:
    """Of pairs whose differences vary by the root of two times a run's noise."""
    for change in (0.4, 0.5, 1.0):
        exact = TTestPower().solve_power(change / (NOISE * 2**0.5), alpha=0.05, power=0.8)
        assert seeds_needed(change, NOISE, networks=2) == np.ceil(exact)


def test_a_ladder_needs_the_seeds_of_the_documentation() -> None:
    assert [seeds_needed(change, NOISE, 17, tests) for change in (1.0, 0.5) for tests in (1, 16)] == [6, 11, 20, 38]
    assert [seeds_to_exclude(margin, NOISE, 17, tests) for margin in (1.0, 0.5) for tests in (1, 16)] == [6, 12, 22, 41]


@pytest.mark.parametrize("seeds", [6, 11])
def test_power_is_that_of_simulated_studies(seeds: int) -> None:
    """Of the change of one rung, and of another that is truly 0, with the degrees of freedom that `estimate` gives."""
    generator, levels, studies = np.random.default_rng(seeds), np.array([0.05, 0.05 / 16]), 300
    sums = [{3: 1.0, 2: -1.0}, {8: 1.0, 7: -1.0}]
    estimates = []
    for _ in range(studies):
        values = NOISE * (generator.normal(size=(17, seeds)) + 0.6 * generator.normal(size=seeds))
        values[8] += 1.0
        estimates += estimate(Scores(dict(enumerate(map(pd.Series, values))), least=0.01, pooled=range(17)), sums)
    table = conclude(estimates, 1, margin=1.0)
    p, p_negligible, freedom = table["p"][1::2].to_numpy(), table["p_negligible"][::2].to_numpy(), table["freedom"]
    shown, excluded = ((each[:, None] < levels).mean(axis=0) for each in (p, p_negligible))
    assert shown == pytest.approx([power_to_show(1.0, NOISE, seeds, 17, level) for level in levels], abs=0.08)
    assert excluded == pytest.approx([power_to_exclude(1.0, NOISE, seeds, 17, level) for level in levels], abs=0.08)
    assert freedom.mean() == pytest.approx(planned_freedom(seeds, 17), rel=0.12)


def test_few_networks_have_the_degrees_of_freedom_of_pairs() -> None:
    scores = Scores({name: pd.Series(np.random.default_rng(0).normal(size=5)) for name in "ab"})
    assert estimate(scores, [{"a": 1.0, "b": -1.0}])[0].freedom == pytest.approx(planned_freedom(5, 2))


@pytest.fixture
def launch(command: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """A launch whose runs are done at once, without training."""

    def train_study(study: Study, machine: object) -> int:
        study.begin()
        for run in study.todo:
            set_status(run, Status.DONE, top1=50.0)
        return 0

    monkeypatch.setattr("experiments.launch.local.train_study", train_study)
    monkeypatch.setattr("experiments.train.preflight", lambda *_, **__: None)

    def launch(*arguments: str) -> str:
        code, out, _ = command("-m", *arguments)
        assert code == 0
        return out

    return launch


@pytest.fixture
def planned(call: Callable) -> Callable:
    def planned(*arguments: str) -> dict:
        code, out, err = call(plan, *arguments, "--images-per-second", "1000", "--json")
        assert (code, err) == (0, "")
        return json.loads(out)

    return planned


def test_plan_takes_the_noise_from_records_and_counts_what_is_done(
    planned: Callable, launch: Callable, call: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    """Records of four networks with known accuracies: the noise is what the definition says, the hours a product."""
    rungs = ("kernel_5", "kernel_7", "kernel_9", "kernel_11")
    arguments = (f"rung={','.join(rungs)}", "seed=0,1,2", "regime=nano", "runs=there", *tiny)
    code, out, err = call(plan, "-m", *arguments, "--detect", "1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "state --noise NUMBER" in err
    launch(*arguments)
    generator, values = np.random.default_rng(0), {}
    for path in sorted(here.glob("there/*/summary.json")):
        summary = json.loads(path.read_text())
        network, seed = path.parent.name.partition("-seed")[0], summary["seed"]
        values[network, seed] = summary["top1"] = round(70 + seed + generator.normal(), 3)
        path.write_text(json.dumps(summary))
    table = pd.Series(values).unstack()
    rest = table.sub(table.mean(axis=1), axis=0).sub(table.mean() - table.mean().mean(), axis=1)
    cost = planned("-m", *arguments, "--detect", "1")
    [seeds] = cost["seeds"]
    assert (seeds["networks"], seeds["tests"]) == (4, 3)
    assert seeds["noise"] == pytest.approx(((rest**2).sum().sum() / 6) ** 0.5)
    needed = seeds["detect"]["holm"]
    assert needed["seeds"] == seeds_needed(1, seeds["noise"], 4, 3)
    assert needed["hours_in_all"] == pytest.approx(cost["hours_in_all"] / 3 * needed["seeds"])
    assert needed["hours_left"] == pytest.approx(cost["hours_in_all"] / 3 * (needed["seeds"] - 3))


def test_plan_counts_the_effects_of_crossed_switches(planned: Callable, tiny: tuple[str, ...]) -> None:
    """Of three kernel sizes and two activations: two of each with the other's levels are four simple effects."""
    switches = ("rung=separate_downsampling", "design.kernel_size=3,5,7", "design.activation=relu,gelu")
    [seeds] = planned("-m", *switches, "seed=0,1,2", *tiny, "--detect", "1", "--noise", "0.5")["seeds"]
    assert (seeds["networks"], seeds["tests"]) == (6, 4)


# Negligible


def test_negligible_is_two_one_sided_tests() -> None:
    """Two networks: the textbook's, with the same seeds on both sides and with others."""
    generator = np.random.default_rng(0)
    a, b = (pd.Series(80 + 0.1 * generator.normal(size=5)) for _ in range(2))
    for margin in (0.1, 0.3):
        for other, truth in (
            (b, ttost_paired(a.to_numpy(), b.to_numpy(), -margin, margin)[0]),
            (b.set_axis(range(5, 10)), ttost_ind(a, b, -margin, margin, usevar="unequal")[0]),
        ):
            row = compare(Scores({"a": a, "b": other}), [{"a": 1.0, "b": -1.0}], margin=margin).iloc[0]
            assert row["p_negligible"] == pytest.approx(truth)
            assert row["negligible"] == (truth < 0.05)


def test_counted_costs_are_negligible_or_not_for_certain() -> None:
    macs = Scores({"a": pd.Series([5.0, 5.0]), "b": pd.Series([4.0, 4.0])}, counted=True)
    for margin, verdict in ((1.0, False), (1.1, True)):
        assert compare(macs, [{"a": 1.0, "b": -1.0}], margin=margin)["negligible"].tolist() == [verdict]


def write_ladder(folder: Path, seeds: int, look: Callable[[int], dict] = lambda seed: {}, noise: float = 0.1) -> Path:
    """Rungs that are alike, except for one that is a little better, and one that is much better."""
    generator = np.random.default_rng(1)
    means = {"move_up_depthwise": 80, "kernel_5": 80, "kernel_7": 80.4, "kernel_9": 80, "kernel_11": 82}
    for rung, mean in means.items():
        for seed in range(seeds):
            top1, config = round(mean + noise * generator.normal(), 2), {"look": look(seed)}
            write_run(folder, rung, seed=seed, top1=top1, config=config, summary={"study": "mine"})
    return folder


def test_report_says_what_is_negligible_and_what_is_shown_neither_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step may be both shown and negligible. The steps are a family of their own."""
    folder = write_ladder(tmp_path / "runs", seeds=8)
    [study] = comparisons(load(folder))
    ladder = ladder_table(study, margin=0.8).set_index("rung")
    assert ladder["negligible"][ladder["change"].notna()].to_dict() == {
        "kernel_5": True,
        "kernel_7": True,
        "kernel_9": True,
        "kernel_11": False,
    }
    assert ladder["verdict"][["kernel_7", "kernel_11"]].tolist() == ["up", "up"]
    smallest = ladder["p_negligible"].min()
    assert ladder["p_negligible_holm"].min() == pytest.approx(4 * smallest)
    road = effect_table(study, margin=0.8)
    assert road.set_index("step")["negligible"].sum() == 1, "only kernel_7 is adopted"
    monkeypatch.setenv("COLUMNS", "200")
    assert report([str(folder), "--margin", "0.8", "--out", str(tmp_path / "report")]) == 0
    out, page = capsys.readouterr().out, (tmp_path / "report" / "report.md").read_text()
    for text in (" ".join(out.split()), page.replace("\\", "")):
        assert "Shown to be negligible, within ±0.8 points, for other seeds on these images: kernel size 5" in text
        assert "of these, shown to make a difference all the same, though a small one: kernel size 7" in text
    assert "▲ up, but negligible" in page
    with pytest.raises(SystemExit, match="2"):
        report([str(folder), "--margin", "-1"])
    assert capsys.readouterr().err == "error: argument --margin: must be a number above 0, not '-1'\n"


# Looks


def test_launcher_counts_a_look_where_a_network_with_results_gets_more_seeds(
    launch: Callable, planned: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    def again(rungs: str, seeds: str, *more: str) -> str:
        return launch("study_name=mine", *tiny, f"rung={rungs}", f"seed={seeds}", *more)

    assert "look 1 of 2, planned with 2 and 3 seeds: 2 seeds\n" in again("gelu", "0,1", "looks=[2,3]")
    assert "look 1 of 2" in again("gelu", "1")  # what was announced; the plan stays
    assert "look 1 of 2" in again("gelu,kernel_7", "0,1", "looks=[2,3]")  # another network
    assert "warning: looks=[9] comes after the first results" in again("gelu", "0", "looks=[9]")
    assert "look 2 of 2, planned with 2 and 3 seeds: 3 seeds\n" in again("gelu,kernel_7", "2")
    assert "warning: look 3 at this study, but 2 looks planned with 2 and 3 seeds" in again("gelu", "3")
    seeds = planned("-m", "study_name=mine", *tiny, "rung=gelu,kernel_7", "seed=0,1", "--detect", "1", "--noise", "1")
    assert seeds["seeds"][0]["looks"] == 2  # those on record
    numbers = {}
    for path in here.glob("runs/*/config.json"):
        config = json.loads(path.read_text())
        assert config["look"]["planned"] == [2, 3]
        numbers[config["rung"] or config["network"].split()[0], config["seed"]] = config["look"]["number"]
    assert numbers == {
        **{("gelu", 0): 1, ("gelu", 1): 1, ("gelu", 2): 2, ("gelu", 3): 3},
        **{("kernel_7", 0): 1, ("kernel_7", 1): 1, ("kernel_7", 2): 2},
    }
    looks = json.loads((here / "runs/studies/mine.json").read_text())["looks"]
    assert [(look["number"], look["seeds"], len(look["runs"])) for look in looks] == [(1, 2, 4), (2, 3, 2), (3, 4, 1)]
    [concern] = look_concerns(load(here / "runs").runs)
    assert "was looked at 3 times (2, 3 and 4 seeds), but planned were 2 looks with 2 and 3 seeds" in concern


def test_first_look_with_too_few_seeds_says_what_is_true_now(launch: Callable, tiny: tuple[str, ...]) -> None:
    """The report names it only once seeds are added after its results: until then it may be incomplete."""
    out = launch(*tiny, "seed=0", "looks=[6,12]")
    line = (
        "warning: look 1 of 2, planned with 6 and 12 seeds: 1 seed, not 6; seeds that a network gets after its first "
    )
    assert f"{line}result are another look\n" in out


@pytest.mark.parametrize(
    ("word", "error"),
    [
        ("looks=[6,3]", "looks must be in ascending order, each once, not [6, 3]"),
        ("looks=[3,3]", "looks must be in ascending order, each once, not [3, 3]"),
        ("hydra.sweeper.max_batch_size=2", "hydra.sweeper.max_batch_size=2 would make several studies of one; "),
    ],
)
def test_looks_that_cannot_be_counted_are_refused(
    word: str, error: str, command: Callable, call: Callable, here: Path
) -> None:
    for code, out, err in (command("-m", "seed=0,1,2,3", word), call(plan, "-m", "seed=0,1,2,3", word)):
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith(f"error: {error}")
    assert not (here / "runs").exists()


def test_planned_looks_split_the_level_and_others_are_named(tmp_path: Path) -> None:
    def study(name: str, planned: list[int], per_look: int = 3) -> tuple[pd.DataFrame, list[str]]:
        look = lambda seed: {"number": 1 + seed // per_look, "planned": planned}  # noqa: E731
        [result] = comparisons(load(write_ladder(tmp_path / name, 6, look, noise=0.5)))
        return ladder_table(result, margin=0.8), look_concerns(result.runs)

    once, silent = study("once", [], per_look=6)
    planned, as_planned = study("planned", [3, 6])
    unplanned, named = study("unplanned", [])
    for column in ("p_holm", "p_negligible_holm"):
        assert planned[column].tolist() == pytest.approx((2 * once[column]).clip(upper=1).tolist(), nan_ok=True)
        assert unplanned[column].tolist() == pytest.approx(once[column].tolist(), nan_ok=True)
    shown = planned["verdict"].isin(("up", "down"))
    assert (planned["detectable"] > once["detectable"])[shown].all()
    assert (silent, as_planned) == ([], [])
    assert "got more seeds after a look at its results, without a plan (3 and 6 seeds)" in named[0]
    _, other_seeds = study("other", [2, 6])
    assert "was looked at with 3 and 6 seeds, but planned were 2 looks with 2 and 6 seeds" in other_seeds[0]


def write_for_every_table(folder: Path) -> Path:
    """A ladder and one network of two switches crossed, with two budgets and on two datasets; and rungs tuned."""
    generator = np.random.default_rng(2)
    worth = {"move_up_depthwise": 80.0, "kernel_7": 80.6, "gelu": 81.0}

    def write(rung: str, seed: int, top1: float, config: dict, **summary: object) -> None:
        top1 = round(top1 + 0.3 * generator.normal(), 2)
        write_run(folder, rung, seed=seed, top1=top1, config=config, summary={"study": "mine"} | summary)

    for epochs, data in ((3, "fashion_mnist"), (6, "fashion_mnist"), (3, "cifar10")):
        config = {"recipe": {"epochs": epochs}, "data": {"name": data}, "differs": {"recipe.epochs": epochs}}
        for seed in range(4):
            for rung, mean in worth.items():
                write(rung, seed, mean + epochs * (rung == "gelu") / 6, config)
            for kernel, activation in ((3, "relu"), (3, "gelu"), (9, "relu"), (9, "gelu")):
                switches = {"kernel_size": kernel, "activation": activation}
                differs = {f"design.{name}": level for name, level in switches.items()} | config["differs"]
                top1 = 79 + kernel / 6 + 0.5 * (kernel == 9) * (activation == "gelu")
                write("layer_norm", seed, top1, config | {"design": switches, "differs": differs})
    for rung, mean in worth.items():
        for rate in (4e-3, 8e-3):
            differs = {"recipe.lr": rate} if rate != 4e-3 else {}
            config = {"recipe": {"lr": rate}, "differs": differs}
            held_out = config | {"data": {"holdout": 0.1}, "differs": differs | {"data.holdout": 0.1}}
            held_out["tuning"] = {"setting": "recipe.lr", "values": [4e-3, 8e-3], "seeds": [100]}
            write(rung, 100, mean + 100 * rate, held_out, evaluated_on="holdout")
            for seed in range(4):
                write(rung, seed, mean + 100 * rate, config)
    return folder


@pytest.fixture(scope="module")
def tables_by_looks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, ReportTable]]:
    """The tables of a report, by name: of records without planned looks, and of the same with two of them."""
    folder = write_for_every_table(tmp_path_factory.mktemp("looks"))
    reports = []
    for planned in ([], [3, 6]):
        for path in folder.glob("*/config.json"):
            path.write_text(json.dumps(json.loads(path.read_text()) | {"look": {"number": 1, "planned": planned}}))
        runs = load(folder)
        written = write_report(runs, comparisons(runs), tmp_path_factory.mktemp("report"))
        sections = [*written.across, *(section for chapter in written.chapters for section in chapter.sections)]
        reports.append({table.name: table for section in reversed(sections) for table in section.tables})
    return reports


@pytest.mark.parametrize(
    "name",
    [
        *("ladder", "factors", "two-way-1", "simple-effects-1", "best"),
        *("budgets-slopes", "budgets-by-budget", "datasets", "tuned"),
    ],
)
def test_every_table_is_corrected_for_planned_looks_and_says_so(
    name: str, tables_by_looks: list[dict[str, ReportTable]]
) -> None:
    once, planned = (tables[name] for tables in tables_by_looks)
    columns = [column for column in once.frame if "p_holm" in column and once.frame[column].notna().any()]
    assert columns
    for column in columns:
        expected = (2 * once.frame[column].astype(float)).clip(upper=1)
        assert planned.frame[column].astype(float).tolist() == pytest.approx(expected.tolist(), nan_ok=True)
    assert "for 2 planned looks at the results" in planned.note
    assert "planned looks" not in once.note


def test_planned_looks_keep_the_error_and_unplanned_ones_do_not() -> None:
    planned, unplanned = (simulate(Condition(2, (3, 6, 12), planned), studies=200) for planned in (True, False))
    assert planned <= 0.05
    assert unplanned > 0.07
