"""A road: rungs in order, each its parent plus one step; and the sets of steps that studies derive from it.

`conf/road/` has one file per road (`conf.Conf.road` reads it); a run's record contains the road that it was requested
on, so that anyone's runs can be reported. A set lists its steps in the road's order, so that equal sets are equal
values.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import product
from random import Random
from typing import Any, NamedTuple

from roadmap.common.bounds import Number, did_you_mean
from roadmap.designs import Design

Steps = tuple[str, ...]

MOST_ORDERS = 1000
"""How many orders a study may have: these cover nearly all of the 2^13 sets of steps."""
MOST_RUNGS = 1000
"""How many rungs a road may have."""


class Published(NamedTuple):
    """The published numbers of a rung, from the road's file."""

    top1: float
    """ImageNet-1K top-1 accuracy in percent, at 224 px."""
    std: float | None
    """Over seeds; None for a single run."""
    gflops: float
    """As printed: multiply-adds, in billions."""


class Reference(NamedTuple):
    """A network of the same size that is shown for comparison; not a rung."""

    name: str
    top1: float
    """ImageNet-1K top-1 accuracy in percent, at 224 px."""
    gflops: float


@dataclass(frozen=True)
class Rung:
    """A point on a road: a set of steps, and the network that it makes in a regime."""

    name: str
    parent: str | None
    """The rung to compare with: the same set of steps without this rung's own. None for the first."""
    title: str
    section: str
    adopted: bool
    """False for a side branch: measured, but not part of the following rungs."""
    steps: Steps
    published: Published | None = None
    """For the regime, or for the one whose proportions it has (`nano`: resnet50)."""
    design: Design | None = None
    """None if the road was read without a regime."""
    recipe: str | None = None
    about: str = ""
    """What its step changes, in a sentence or two."""

    @property
    def step(self) -> str | None:
        """The step that it adds to its parent; None for a first rung without one."""
        return self.steps[-1] if self.steps else None


@dataclass(frozen=True)
class Road:
    """The rungs of a road, in order, with the numbers published for a regime."""

    name: str
    rungs: tuple[Rung, ...]
    sections: tuple[tuple[str, str], ...]
    """(number, title) of each group of steps."""
    base: str
    """The rung to which "add one in" adds each step alone."""
    published: str | None = None
    """The regime of the published numbers; None if there are none."""
    references: tuple[Reference, ...] = ()
    title: str = ""
    """For figures: `From ResNet to ConvNeXt`."""

    def __getitem__(self, name: str) -> Rung:
        """The rung of this name.

        Raises:
            ValueError: if there is none.
        """
        if name not in self._by_name:
            raise ValueError(f"unknown rung {name!r}{did_you_mean(name, self.names)} (known: {', '.join(self.names)})")
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Rung]:
        return {rung.name: rung for rung in self.rungs}

    @property
    def names(self) -> Steps:
        return tuple(rung.name for rung in self.rungs)

    @cached_property
    def steps(self) -> Steps:
        """The steps of all rungs, in the road's order, including side branches."""
        return tuple(dict.fromkeys(step for rung in self.rungs for step in rung.steps))

    @cached_property
    def adopted(self) -> Steps:
        """The adopted steps: those of the last adopted rung."""
        return [rung for rung in self.rungs if rung.adopted][-1].steps

    def in_order(self, steps: Iterable[str]) -> Steps:
        """These steps in the road's order, each once; steps that are not on the road come last, by name."""
        position = {step: index for index, step in enumerate(self.steps)}
        return tuple(sorted(set(steps), key=lambda step: (position.get(step, len(position)), step)))

    def nearest(self, steps: Iterable[str]) -> Rung:
        """The rung whose steps differ least from these; of several, the last."""
        steps = frozenset(steps)
        return min(reversed(self.rungs), key=lambda rung: len(steps.symmetric_difference(rung.steps)))

    def name_of(self, steps: Iterable[str], differs: Mapping[str, Any] | None = None) -> str:
        """The name of a network: its nearest rung, the steps that it lacks or has in addition, and the switches of its
        design that were set by hand, as in `separate_downsampling -gelu` or `kernel_9 activation=silu`."""
        steps = self.in_order(steps)
        rung = self.nearest(steps)
        removed = [f"-{step}" for step in rung.steps if step not in steps]
        added = [f"+{step}" for step in steps if step not in rung.steps]
        return " ".join([rung.name, *removed, *added, *switches(differs or {})])

    # Sets of steps.

    def leave_one_out(self) -> tuple[Steps, ...]:
        """All steps; then all but one, for each."""
        return self.adopted, *(self.in_order({*self.adopted} - {step}) for step in self.adopted)

    def add_one_in(self) -> tuple[Steps, ...]:
        """The base; then the base plus one step, for each other step."""
        base = self[self.base].steps
        return base, *(self.in_order({*base, step}) for step in self.adopted if step not in base)

    def groups(self) -> dict[str, Steps]:
        """The adopted steps by their section's title: a partition of them."""
        section = {rung.step: rung.section for rung in self.rungs}
        groups = {title: tuple(step for step in self.adopted if section[step] == key) for key, title in self.sections}
        return {title: steps for title, steps in groups.items() if steps}

    def section_ends(self) -> Steps:
        """The first rung, and the last adopted rung of each section, by name."""
        last = {rung.section: rung.name for rung in self.rungs if rung.adopted}
        return tuple(dict.fromkeys([self.rungs[0].name, *last.values()]))

    def unions(self, groups: Iterable[Steps]) -> tuple[Steps, ...]:
        """Every combination of the groups, from none to all: 2^n sets for n groups."""
        choices = product(*(((), group) for group in groups))
        return tuple(self.in_order(step for group in chosen for step in group) for chosen in choices)

    def orderings(self, count: int, seed: int = 0) -> tuple[Steps, ...]:
        """`count` random orders of the adopted steps. A larger count begins with the same orders, on any machine.

        Raises:
            ValueError: if the count is out of bounds.
        """
        if problem := Number(f"[1, {MOST_ORDERS}]").problem(count):
            raise ValueError(f"orders {problem}")
        draw = Random(seed).random  # Python guarantees this sequence across versions, but not that of shuffle
        return tuple(tuple(sorted(self.adopted, key=lambda _: draw())) for _ in range(count))

    def prefixes(self, orders: Iterable[Steps]) -> tuple[Steps, ...]:
        """The sets along each of these orders, step by step from none to all; each set once."""
        sets = (self.in_order(order[:length]) for order in orders for length in range(len(order) + 1))
        return tuple(dict.fromkeys(sets))

    # In a record.

    def to_json(self) -> dict[str, Any]:
        """For a run's record: all but designs, which depend on the regime. Empty fields of rungs are left out."""
        rungs = []
        for rung in self.rungs:
            values = asdict(rung) | {"step": rung.step, "published": rung.published and rung.published._asdict()}
            rungs.append({name: values[name] for name in RUNG_KEYS if values[name] not in (None, "")})
        return {
            "name": self.name,
            "title": self.title,
            "base": self.base,
            "published": self.published,
            "sections": dict(self.sections),
            "references": [reference._asdict() for reference in self.references],
            "rungs": rungs,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Road:
        """The road of `to_json`, or of a file of conf/road/ with `published` and `references` chosen for a regime.

        Raises:
            ValueError: if this is not a road. The message is one line.
        """
        try:
            return _road(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a road: {error!r} where its rungs are read") from error


def switches(differs: Mapping[str, Any]) -> list[str]:
    """`activation=silu` for each switch of the design among the settings that differ; `layers.gate=Gate` for a
    layer that was added by hand, whatever its position and arguments."""
    values = {}
    for key in sorted(differs):
        path, value = key.split("."), differs[key]
        if path[0] != "design":
            continue
        layer = ".".join(path[:3])
        if path[1:2] == ["layers"] and f"{layer}._target_" in differs:
            path, value = path[:3], str(differs.get(f"{layer}._target_")).rpartition(".")[2]
        values[".".join(path[1:])] = value
    return [f"{switch}={_as_argument(value)}" for switch, value in values.items()]


def _as_argument(value: Any) -> str:
    """As on the command line: [1,2,1,1]."""
    return f"[{','.join(map(_as_argument, value))}]" if isinstance(value, (list, tuple)) else str(value)


def _road(value: Mapping[str, Any]) -> Road:
    if not isinstance(value, Mapping):
        raise ValueError("not a road: it is not a mapping")
    known = ("name", "title", "base", "published", "sections", "references", "rungs")
    if unknown := [key for key in value if key not in known]:
        raise ValueError(f"a road has no {unknown[0]!r}{did_you_mean(unknown[0], known)} (it has {', '.join(known)})")
    if not isinstance(value["rungs"], list) or not 1 <= len(value["rungs"]) <= MOST_RUNGS:
        raise ValueError(f"a road has a list of 1 to {MOST_RUNGS} rungs")
    rungs: dict[str, Rung] = {}
    before: str | None = None  # the last adopted rung
    titles = {str(key): str(title) for key, title in (value.get("sections") or {}).items()}
    for entry in value["rungs"]:
        rung = _rung(entry, rungs, before)
        if rung.name in rungs:
            raise ValueError(f"two rungs are called {rung.name!r}; give one of them another `name`")
        rungs[rung.name] = rung
        before = rung.name if rung.adopted else before
    # In the order of the rungs: a copy of a record need not keep the order of a mapping.
    sections = {rung.section: titles.get(rung.section, rung.section) for rung in rungs.values()}
    if len({*sections.values()}) < len(sections):
        raise ValueError("two of its sections have the same title")
    if before is None:
        raise ValueError("none of the rungs is adopted")
    base = value.get("base") or next(iter(rungs))
    if base not in rungs or not rungs[base].adopted:
        adopted = [name for name, rung in rungs.items() if rung.adopted]
        raise ValueError(f"its base is {base!r}, which is not an adopted rung{did_you_mean(base, adopted)}")
    references = [_reference(network) for network in value.get("references") or ()]
    name, published = str(value["name"]), value.get("published")
    return Road(
        name,
        tuple(rungs.values()),
        tuple(sections.items()),
        base,
        None if published is None else str(published),
        tuple(references),
        str(value.get("title") or f"The road {name}"),
    )


def is_name(value: object) -> bool:
    """Whether a rung or step may have this name: Hydra must read it as text, also in a list."""
    literal = str(value).lower() in ("null", "true", "false", "nan", "inf")
    return isinstance(value, str) and not literal and bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,99}", value))


RUNG_KEYS = ("name", "step", "parent", "section", "title", "adopted", "published", "about")
"""The keys of an entry of `rungs`."""
OWN = "own"
"""The section of a rung that has none."""


def _rung(entry: Mapping[str, Any], rungs: Mapping[str, Rung], before: str | None) -> Rung:
    if unknown := [key for key in entry if key not in RUNG_KEYS]:
        raise ValueError(
            f"a rung has no {unknown[0]!r}{did_you_mean(unknown[0], RUNG_KEYS)} (it has {', '.join(RUNG_KEYS)})"
        )
    step = entry.get("step")
    if step is not None and not isinstance(step, str):
        raise ValueError(f"a rung's step is {step!r}, which is not a name")
    name: Any = entry.get("name") or step
    if not is_name(name):
        raise ValueError(f"a rung needs a step, or a name of letters, digits and _, not {name!r}")
    parent = entry.get("parent", before)
    if (parent is None) != (not rungs) or (parent is not None and parent not in rungs):
        raise ValueError(
            f"the parent of rung {name!r} is {parent!r}, which is not a rung before it{did_you_mean(parent, rungs)}"
        )
    if step is None and rungs:
        raise ValueError(f"rung {name!r} has no step; only the first may have none")
    if not isinstance(adopted := entry.get("adopted", True), bool):
        raise ValueError(f"`adopted` of rung {name!r} must be true or false, not {adopted!r}")
    if adopted and parent != before:
        raise ValueError(
            f"rung {name!r} is adopted, so its parent must be the adopted rung before it, {before!r}, not {parent!r}"
        )
    steps = rungs[parent].steps if parent else ()
    if step in steps:
        raise ValueError(f"rung {name!r} adds step {step!r}, which its parent already has")
    published = entry.get("published")
    return Rung(
        name=name,
        parent=parent,
        title=str(entry.get("title") or name.replace("_", " ")),
        section=str(entry.get("section") or OWN),
        adopted=adopted,
        steps=(*steps, step) if step else steps,
        published=_published(name, published) if published else None,
        about=str(entry.get("about") or ""),
    )


def _reference(printed: Mapping[str, Any]) -> Reference:
    try:
        return Reference(str(printed["name"]), _number(printed["top1"]), _number(printed["gflops"]))
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("a reference must be like {name: Swin-T, top1: 81.3, gflops: 4.5}") from None


def _published(rung: str, printed: Mapping[str, Any]) -> Published:
    try:
        std = printed.get("std")
        return Published(_number(printed["top1"]), None if std is None else _number(std), _number(printed["gflops"]))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ValueError(
            f"`published` of rung {rung!r} must be like {{top1: 80.62, std: 0.14, gflops: 4.15}}"
        ) from None


def _number(value: Any) -> float:
    if not math.isfinite(number := float(value)):
        raise ValueError(f"a published number is {value}")
    return number
