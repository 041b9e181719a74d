"""The house: which part may import which (CONTRIBUTING.md). Read from the sources: every import, wherever it is."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = [
    "errors",
    "runtime",
    "config",
    "records",
    "data",
    "training",
    "tracking",
    "launch",
    "evaluate",
    "export",
    "train",
    "plan",
    "latency",
    "status",
    "demo",
]
PARTS = ["measures", "text", "sources", "statistics", "figures", "report"]


def modules() -> dict[str, Path]:
    """{dotted name: file} of all that is installed."""
    files = [
        path
        for top in ("roadmap", "conf", "experiments", "analysis", "hydra_plugins")
        for path in (ROOT / top).rglob("*.py")
    ]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


MODULES = modules()


def imports(module: str) -> set[str]:
    """Ours that a module imports, at its top, within a function, or for type checkers alone."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= names & MODULES.keys() or {node.module}
    return found & MODULES.keys() - {module}


def test_nothing_imports_itself_by_way_of_another() -> None:
    try:
        TopologicalSorter({module: imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle of imports: {' <- '.join(error.args[1])}")


@pytest.mark.parametrize(("package", "order"), [("experiments", ROOMS), ("analysis", PARTS)])
def test_a_room_imports_those_above_it_alone(package: str, order: list[str]) -> None:
    rooms = {module: module.split(".")[1] for module in MODULES if module.startswith(f"{package}.")}
    assert set(rooms.values()) == set(order)
    wrong = [
        f"{module} imports {imported}"
        for module, room in rooms.items()
        for imported in imports(module) & rooms.keys()
        if order.index(rooms[imported]) > order.index(room)
    ]
    assert not wrong


@pytest.mark.parametrize(
    ("package", "may"),
    [
        ("roadmap", "roadmap"),
        ("experiments", "experiments roadmap analysis"),  # experiments/plan and demo alone
        ("analysis", "analysis roadmap"),
        ("hydra_plugins", "hydra_plugins experiments roadmap"),
    ],
)
def test_packages_import_one_way(package: str, may: str) -> None:
    found = {name.split(".")[0] for module in MODULES if module.split(".")[0] == package for name in imports(module)}
    assert found <= {*may.split()}


def test_plan_and_demo_alone_import_the_analysis() -> None:
    """Which never imports `experiments`, so that there is no cycle."""
    rooms = {
        module.split(".")[1]
        for module in MODULES
        if module.startswith("experiments.") and any(name.startswith("analysis") for name in imports(module))
    }
    assert rooms == {"plan", "demo"}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("analysis")))
def test_the_analysis_needs_no_torch(module: str) -> None:
    seen, todo = set(), [module]
    while todo:
        if (name := todo.pop()) not in seen:
            seen.add(name)
            todo += imports(name)
    heavy = [name for name in seen if "import torch" in MODULES[name].read_text("utf-8")]
    assert not heavy
