"""What do the runs mean? From run records to tables, figures and a report.

    records -> frames -> tables -> figures -> report

    >>> import analysis
    >>> from analysis.ladder import ladders
    >>> for ladder in ladders(analysis.load("runs")):
    ...     print(ladder.table)

Nothing here imports torch or `experiments`: a record is plain files, so a report opens in a second on a laptop. And
nothing is imported before it is used.
"""

from importlib import import_module
from typing import Any

_MODULES = {
    "Runs": "records",
    "RecordsError": "records",
    "load": "records",
    "load_wandb": "tracked",
}
"""By public name, the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
