"""Sets of steps that studies train and analyses take apart. In conf/study/, `${sets:NAME}` writes one out for Hydra.

A set names its steps in the paper's order, so that equal sets are equal values. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import product
from random import Random

from omegaconf import OmegaConf

from roadmap.bounds import Number, did_you_mean
from roadmap.steps import ladder

Steps = tuple[str, ...]

MOST_ORDERS = 1000
"""Of a study: they pass nearly all of the 2^13 sets that there are."""

SECTIONS = {
    "2.1": "training recipe",
    "2.2": "macro",
    "2.3": "ResNeXt",
    "2.4": "inverted bottleneck",
    "2.5": "large kernel",
    "2.6": "micro",
}
"""What the paper's sections turn."""


@cache
def adopted() -> Steps:
    """The 13 steps that the paper took: those of the last rung."""
    return ladder()[-1].steps


def leave_one_out() -> tuple[Steps, ...]:
    """All steps; then all but one, for each."""
    return adopted(), *(in_order(set(adopted()) - {step}) for step in adopted())


def add_one_in() -> tuple[Steps, ...]:
    """The first modern rung, which is the modern recipe alone; then it and one step, for each of the others."""
    recipe, *others = adopted()
    return (recipe,), *((recipe, step) for step in others)


def sections() -> dict[str, Steps]:
    """The paper's six groups of steps, which share none and together are all."""
    found: dict[str, Steps] = dict.fromkeys(SECTIONS.values(), ())
    for rung in ladder():
        if rung.name in adopted():
            found[SECTIONS[rung.section]] += (rung.name,)
    return found


def unions(groups: Iterable[Steps]) -> tuple[Steps, ...]:
    """Every combination of groups, from none to all: 2^n sets for n groups."""
    choices = product(*(((), group) for group in groups))
    return tuple(in_order(step for group in chosen for step in group) for chosen in choices)


def orderings(count: int, seed: int = 0) -> tuple[Steps, ...]:
    """`count` random orders of the 13 steps. More of them begin with the same ones, on any machine.

    Raises:
        ValueError: if there are to be none, or too many.
    """
    if problem := Number(f"[1, {MOST_ORDERS}]").problem(count):
        raise ValueError(f"orders {problem}")
    draw = Random(seed).random  # Python promises its sequence for good; what shuffle makes of it, it does not
    return tuple(tuple(sorted(adopted(), key=lambda _: draw())) for _ in range(count))


def prefixes(orders: Iterable[Steps]) -> tuple[Steps, ...]:
    """The sets that one passes, step by step, from none to all, on each of these orders; each set once."""
    passed = (in_order(order[:length]) for order in orders for length in range(len(order) + 1))
    return tuple(dict.fromkeys(passed))


def in_order(steps: Iterable[str]) -> Steps:
    """These of the adopted steps in the paper's order."""
    return tuple(sorted(steps, key=adopted().index))


SETS: dict[str, Callable[..., tuple[Steps, ...]]] = {
    "leave_one_out": leave_one_out,
    "add_one_in": add_one_in,
    "sections": lambda: unions(sections().values()),
    "orderings": lambda count, seed=0: prefixes(orderings(count, seed)),
}


def _sweep(name: str, *arguments: int) -> str:
    """`[a,b],[a,c]`: what Hydra's sweeper reads as one value after the other."""
    if name not in SETS:
        raise ValueError(f"there are no sets {name!r}{did_you_mean(name, SETS)} (known: {', '.join(SETS)})")
    return ",".join(f"[{','.join(steps)}]" for steps in SETS[name](*arguments))


OmegaConf.register_new_resolver("sets", _sweep, replace=True)
