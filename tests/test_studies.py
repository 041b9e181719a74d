"""Each study of conf/study/ asks for exactly the runs that it promises, and shares with others what they share."""

import csv
import re
from collections.abc import Callable
from itertools import chain, combinations
from pathlib import Path

import pytest
import torch

import roadmap
from experiments.config.run import Run
from roadmap.conf import CONF, OURS

ROOT = Path(__file__).parent.parent
FACTS = ROOT / "tests" / "facts" / "resnet50_to_convnext_t.csv"
RUNGS = {row["name"]: row for row in csv.DictReader(FACTS.read_text("utf-8").splitlines())}
ROAD = roadmap.road()
STEPS = tuple(name for name, row in RUNGS.items() if row["adopted"] == "yes")[1:]
pytestmark = pytest.mark.xdist_group("studies")  # composed once

SECTIONS = {  # as the paper groups its steps
    "Training techniques": {"modern_recipe"},
    "Macro design": {"stage_ratio", "patchify_stem"},
    "ResNeXt-ify": {"depthwise_conv", "increase_width"},
    "Inverted bottleneck": {"invert_dimensions"},
    "Large kernel sizes": {"move_up_depthwise", "kernel_7"},
    "Micro design": {"gelu", "fewer_activations", "fewer_norms", "layer_norm", "separate_downsampling"},
}
REFERENCES = {  # parameters in millions at 1000 classes, as their authors state them
    "timm:swin_tiny_patch4_window7_224": 28.3,
    "timm:deit_small_patch16_224": 22.1,
    "timm:resnext50_32x4d": 25.0,
    "timm:efficientnetv2_s": 21.5,
}

all_but_one = [set(STEPS)] + [set(STEPS) - {step} for step in STEPS]
one_more = [{"modern_recipe"}] + [{"modern_recipe", step} for step in STEPS[1:]]
on_and_off = [
    set(chain.from_iterable(SECTIONS[name] for name in chosen))
    for size in range(7)
    for chosen in combinations(SECTIONS, size)
]


def passed_on(orders: list[tuple[str, ...]]) -> list[set[str]]:
    passed = {frozenset(order[:length]) for order in orders for length in range(14)}
    return [set(steps) for steps in passed]


def in_order(wanted: list[set[str]]) -> list[tuple[str, ...]]:
    return sorted(tuple(step for step in STEPS if step in steps) for steps in wanted)


def test_there_are_thirteen_steps() -> None:
    assert len(STEPS) == 13
    assert ROAD.adopted == STEPS


def test_sections_are_the_papers() -> None:
    assert {name: set(steps) for name, steps in ROAD.groups().items()} == SECTIONS
    assert list(chain.from_iterable(ROAD.groups().values())) == list(STEPS)
    assert sorted(ROAD.unions(ROAD.groups().values())) == in_order(on_and_off)


def test_leave_one_out_and_add_one_in() -> None:
    assert sorted(ROAD.leave_one_out()) == in_order(all_but_one)
    assert sorted(ROAD.add_one_in()) == in_order(one_more)


def test_orders_are_permutations_and_more_of_them_begin_with_the_same() -> None:
    orders = ROAD.orderings(20, 5)
    assert all(sorted(order) == sorted(STEPS) for order in orders)
    assert len(set(orders)) == 20
    assert ROAD.orderings(7, 5) == orders[:7]
    assert not set(ROAD.orderings(20, 6)) & set(orders)


def test_orders_are_the_same_everywhere() -> None:
    assert ROAD.orderings(1) == ROAD.orderings(1, 0)
    assert ROAD.orderings(1)[0][:4] == ("depthwise_conv", "separate_downsampling", "kernel_7", "invert_dimensions")
    with pytest.raises(ValueError, match=r"orders must be in \[1, 1000\], not 0"):
        ROAD.orderings(0)


def test_every_order_is_walked_from_none_to_all() -> None:
    orders = ROAD.orderings(6)
    assert sorted(ROAD.prefixes(orders)) == in_order(passed_on(orders))
    assert {(), STEPS} <= set(ROAD.prefixes(orders))


@pytest.fixture(scope="module")
def known() -> dict[str, list[Run]]:
    return {}


@pytest.fixture
def runs_of(study_runs: Callable, known: dict[str, list[Run]]) -> Callable[..., list[Run]]:
    """The runs that a study asks for: looked up once, because composing takes seconds."""

    def look_up(*arguments: str) -> list[Run]:
        key = " ".join(arguments)
        if key not in known:
            known[key] = study_runs(*arguments)
        return known[key]

    return look_up


OF_STEPS = {
    "study=leave_one_out": (all_but_one, 3),
    "study=add_one_in": (one_more, 3),
    "study=sections": (on_and_off, 3),
    "study=orderings orders=2": (passed_on(ROAD.orderings(2)), 1),
    "study=orderings orders=1 order_seed=7": (passed_on(ROAD.orderings(1, 7)), 1),
}


@pytest.mark.parametrize("typed", OF_STEPS)
def test_study_is_every_set_of_steps_with_every_seed(typed: str, runs_of: Callable) -> None:
    wanted, seeds = OF_STEPS[typed]
    runs = runs_of(*typed.split())
    actual = sorted((run.requested.steps, run.seed) for run in runs)
    assert actual == sorted((steps, seed) for steps in in_order(wanted) for seed in range(seeds))
    assert len({run.identity for run in runs}) == len({run.directory for run in runs}) == len(wanted) * seeds
    assert len({run.series for run in runs}) == len(wanted)
    assert all(run.requested.differs == {} and run.regime == "nano" for run in runs)
    assert {run.study_name for run in runs} == {typed.split()[0].removeprefix("study=")}


def test_ladder_study_is_every_rung_three_times(runs_of: Callable) -> None:
    runs = runs_of("study=ladder")
    rungs = [rung.name for rung in roadmap.ladder("nano")]
    assert sorted((run.requested.rung, run.seed) for run in runs) == sorted(
        (rung, seed) for rung in rungs for seed in range(3)
    )
    assert len({run.series for run in runs}) == 17
    assert len({run.directory for run in runs}) == 51
    assert all(run.requested.differs == {} for run in runs)


def test_kernel_size_is_five_rungs_of_the_ladder(runs_of: Callable) -> None:
    runs = runs_of("study=kernel_size")
    assert sorted((run.design.kernel_size, run.seed) for run in runs) == [
        (k, s) for k in (3, 5, 7, 9, 11) for s in range(3)
    ]
    assert {run.identity for run in runs} < {run.identity for run in runs_of("study=ladder")}
    assert all(run.requested.steps[:-1] == STEPS[:7] or run.requested.steps == STEPS[:7] for run in runs)


def test_what_two_studies_share_is_one_run(runs_of: Callable) -> None:
    """Whether a network was requested as a rung or as a set of steps."""
    identities: dict[tuple, set[str]] = {}
    studies: dict[tuple, set[str]] = {}
    for typed in (*OF_STEPS, "study=ladder", "study=kernel_size", "study=references"):
        for run in runs_of(*typed.split()):
            if run.model == "design":
                identities.setdefault((run.requested.steps, run.seed), set()).add(run.identity)
                studies.setdefault((run.requested.steps, run.seed), set()).add(run.study_name)
    assert all(len(same) == 1 for same in identities.values())
    assert len(set(chain.from_iterable(identities.values()))) == len(identities)
    assert studies[STEPS, 0] == {"ladder", "leave_one_out", "sections", "orderings", "references"}
    assert studies[("modern_recipe",), 2] == {"ladder", "add_one_in", "sections", "references"}
    assert studies[(), 0] == {"ladder", "sections", "orderings"}


def test_family_is_four_sizes_with_their_own_recipe(study_runs: Callable) -> None:
    depths = {"tiny": (3, 3, 9, 3), "small": (3, 3, 27, 3), "base": (3, 3, 27, 3), "large": (3, 3, 27, 3)}
    widths, rates = {"tiny": 96, "small": 96, "base": 128, "large": 192}, (0.1, 0.4, 0.5, 0.5)
    runs = study_runs("study=family")
    assert [(run.design.depths, run.design.width) for run in runs] == [(depths[size], widths[size]) for size in depths]
    assert tuple(run.design.drop_path for run in runs) == rates
    assert {(run.regime, run.recipe.name, run.recipe.ema_decay, run.seed) for run in runs} == {
        ("resnet50", "convnext", 0.9999, 0)
    }


def test_family_can_be_changed_on_the_command_line(study_runs: Callable) -> None:
    runs = study_runs("study=family", "regime=nano", "recipe=modern", "design=convnext_tiny,convnext_base", "seed=3,4")
    assert [(run.design.width, run.seed) for run in runs] == [(96, 3), (96, 4), (128, 3), (128, 4)]
    assert {(run.regime, run.recipe.name, run.resolution) for run in runs} == {("nano", "modern", 32)}


def test_references_are_four_networks_beside_the_modern_rungs(runs_of: Callable) -> None:
    runs = runs_of("study=references")
    designs = [run for run in runs if run.model == "design"]
    timm_models = [run for run in runs if run.model != "design"]
    modern = [name for name in RUNGS if name != "resnet"]
    assert sorted((run.requested.rung, run.seed) for run in designs) == sorted(
        (n, seed) for n in modern for seed in range(3)
    )
    assert sorted((run.model, run.seed) for run in timm_models) == sorted(
        (n, seed) for n in REFERENCES for seed in range(3)
    )
    assert {run.identity for run in designs} < {run.identity for run in runs_of("study=ladder")}
    assert {(run.recipe.name, run.design.drop_path) for run in runs} == {("modern", 0.000667)}


@pytest.mark.parametrize("regime", ["nano", "resnet50", "resnet200"])
def test_reference_is_the_same_run_beside_whatever_rung(regime: str, run_of: Callable) -> None:
    for model in REFERENCES:
        runs = [
            run_of(f"model={model}", f"rung={name}", f"regime={regime}")
            for name in ("modern_recipe", "kernel_5", "gelu", "separate_downsampling")
        ]
        assert len({(run.identity, run.directory) for run in runs}) == 1


@pytest.mark.parametrize("model", REFERENCES)
def test_reference_is_built_at_both_scales(model: str, run_of: Callable) -> None:
    from experiments.training.models import cost_of, make_network

    full = cost_of(run_of(f"model={model}", "rung=gelu", "regime=resnet50"), 1000)
    assert full["params"] / 1e6 == pytest.approx(REFERENCES[model], abs=0.06)
    network = make_network(run_of(f"model={model}", "rung=gelu"), 10).eval()
    with torch.no_grad():
        assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_every_study_is_documented_with_its_number_of_runs(runs_of: Callable) -> None:
    text = (ROOT / "docs" / "studies.md").read_text("utf-8")
    documented = dict(re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", text, re.M))
    assert sorted(documented) == OURS.options("study")
    for study in ("ladder", "kernel_size", "leave_one_out", "add_one_in", "sections", "references"):
        assert int(documented[study]) == len(runs_of(f"study={study}"))
    assert int(documented["orderings"]) == len(ROAD.prefixes(ROAD.orderings(16)))
    assert int(documented["family"]) == 4


# A study of a user's own


@pytest.fixture
def own(here: Path) -> Callable[[str], tuple[str, ...]]:
    """The arguments that start a study of this text."""

    def write(text: str) -> tuple[str, ...]:
        (here / "my" / "study").mkdir(parents=True, exist_ok=True)
        (here / "my" / "study" / "stem.yaml").write_text(text)
        return ("--config-dir", "my", "study=stem")

    return write


FIVE_LINES = re.search(r"```yaml\n(.+?)```", (ROOT / "docs" / "studies.md").read_text("utf-8"), re.S)[1]


def test_study_of_ones_own_is_five_lines(own: Callable, study_runs: Callable) -> None:
    assert FIVE_LINES.count("\n") == 5
    runs = study_runs(*own(FIVE_LINES))
    assert [(run.requested.steps, run.seed) for run in runs] == [
        (steps, seed) for steps in (("modern_recipe",), ("modern_recipe", "patchify_stem")) for seed in range(5)
    ]
    assert {run.study_name for run in runs} == {"stem"}


def test_study_of_ones_own_has_settings_and_sets_and_yields_to_the_command_line(
    own: Callable, study_runs: Callable
) -> None:
    text = FIVE_LINES.replace('"[modern_recipe],[modern_recipe,patchify_stem]"', '"${road:orderings,1,3}"')
    runs = study_runs(*own(text + "recipe: {epochs: 7}\n"), "seed=9")
    assert sorted(run.requested.steps for run in runs) == in_order(passed_on(ROAD.orderings(1, 3)))
    assert {(run.recipe.epochs, run.seed) for run in runs} == {(7, 9)}


@pytest.mark.parametrize(
    ("right", "wrong", "expected"),
    [
        ("# @package _global_\n", "", "my/study/stem.yaml: its first line must be '# @package _global_'"),
        ("params:", "parms:", "conf file study/stem: there is no setting 'hydra.sweeper.parms'"),
        ("hydra:", "epochs: 3\nhydra:", "there is no setting 'epochs'; did you mean 'recipe.epochs'?"),
        ("step:", "steps:", "there is no setting 'steps'; did you mean 'step'?"),
        ("patchify_stem]", "patchify_stm]", "unknown step 'patchify_stm'; did you mean 'patchify_stem'?"),
        ('"[modern_recipe],[modern_recipe,patchify_stem]"', '"${road:section}"', "'section'; did you mean 'sections'?"),
        ("}\n", "\n", 'study/stem.yaml", line'),
    ],
)
def test_mistake_in_it_is_reported_in_one_line(
    right: str, wrong: str, expected: str, own: Callable, command: Callable
) -> None:
    code, out, err = command("-m", *own(FIVE_LINES.replace(right, wrong)))
    assert expected in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert (code, out) == (2, "")


def test_misspelt_study_is_told_the_nearest_of_both_folders(own: Callable, command: Callable) -> None:
    config_dir = own(FIVE_LINES)[:2]
    assert "unknown study 'stme'; did you mean 'stem'?" in command("-m", *config_dir, "study=stme").err
    assert "unknown study 'sectoins'; did you mean 'sections'?" in command("-m", *config_dir, "study=sectoins").err


def test_studies_are_hydra_multiruns_with_a_mode_at_most() -> None:
    for name in OURS.options("study"):
        lines = (CONF / "study" / f"{name}.yaml").read_text("utf-8").splitlines()
        code = [line for line in lines if not line.startswith(("#", "budgets: ", "tune: "))]
        assert code[:4] == [f"study_name: {name}", "hydra:", "  sweeper:", "    params:"]
