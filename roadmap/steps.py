"""The ladder: `conf/step/` (a file a step, the switch that it flips) and `conf/rung/` (the steps that are on).

On the command line Hydra composes these files; here OmegaConf does, so that a ladder needs neither Hydra nor torch.
A test holds the two against each other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig, OmegaConf

from roadmap.designs import Design, did_you_mean

CONF = Path(__file__).resolve().parent.parent / "conf"
PUBLISHED = Path(__file__).with_name("published.csv")
REFERENCES = Path(__file__).with_name("published_references.csv")


class Published(NamedTuple):
    """What the paper printed for a rung: Table 10 (ResNet-50 to ConvNeXt-T) or Table 11 (ResNet-200 to ConvNeXt-B)."""

    top1: float
    """ImageNet-1K top-1 accuracy in percent, at 224 px."""
    std: float | None
    """Over three seeds; Table 11 has a single run."""
    gflops: float
    """As printed: multiply-adds, in billions."""


class Reference(NamedTuple):
    """A network that the paper draws beside a ladder: no rung, of the same size (its Figure 2)."""

    name: str
    top1: float
    """ImageNet-1K top-1 accuracy in percent, at 224 px."""
    gflops: float


@dataclass(frozen=True)
class Rung:
    """A point on the ladder: a set of steps, and the network that it makes in a regime."""

    name: str
    parent: str | None
    """The rung to compare with: its set of steps lacks exactly this rung's own step. None for the first."""
    title: str
    section: str
    adopted: bool
    """False for the three side branches, kernel sizes 5, 9 and 11, that were measured and not taken."""
    steps: tuple[str, ...]
    design: Design
    recipe: str
    published: Published
    """Of the regime itself, or of the one whose proportions it keeps (`nano`: resnet50)."""


@cache
def ladder(regime: str = "resnet50") -> tuple[Rung, ...]:
    """The 17 rungs of a regime in the paper's order.

    Raises:
        ValueError: if there is no such regime.
    """
    config = load("regime", regime).regime
    rungs = []
    with PUBLISHED.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["regime"] != config.published:
                continue
            steps = rung_steps(row["rung"])
            composed = compose(regime, steps)
            rungs.append(
                Rung(
                    name=row["rung"],
                    parent=row["parent"] or None,
                    title=config.get("titles", {}).get(row["rung"], row["title"]),
                    section=row["section"],
                    adopted=row["adopted"] == "yes",
                    steps=steps,
                    design=to_design(composed.design),
                    recipe=composed.recipe.name,
                    published=Published(
                        float(row["top1"]), float(row["top1_std"]) if row["top1_std"] else None, float(row["gflops"])
                    ),
                )
            )
    return tuple(rungs)


def references(published: str) -> tuple[Reference, ...]:
    """What the paper draws beside the published ladder of this name: Swin-T (`resnet50`), Swin-B (`resnet200`)."""
    with REFERENCES.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["regime"] == published]
    return tuple(Reference(row["name"], float(row["top1"]), float(row["gflops"])) for row in rows)


def design(name: str) -> Design:
    """A named design of `conf/design/`: resnet50, resnet101, ..., convnext_tiny, ..., convnext_xlarge.

    Stochastic depth is 0: it belongs to the recipe, not to the network.

    Raises:
        ValueError: if there is no such design.
    """
    return to_design(OmegaConf.merge(*_with_bases("design", name)))


def regimes() -> list[str]:
    return options("regime")


def rung_steps(name: str) -> tuple[str, ...]:
    """The steps that are on at a rung, in the paper's order."""
    return tuple(_overrides(load("rung", name)).get("step", ()))


def compose(regime: str, steps: Iterable[str], recipe: str | None = None) -> DictConfig:
    """The configuration with these steps on: `design`, `recipe` and what they refer to. Order does not matter.

    The recipe is the steps' unless it is given.
    """
    steps = [load("step", name) for name in steps]
    chosen = {"recipe": "original"}
    for step in steps:
        chosen |= _overrides(step)
    base = OmegaConf.load(CONF / "config.yaml")
    recipes = _with_bases("recipe", recipe or chosen["recipe"])
    return OmegaConf.merge(base, *recipes, load("regime", regime), *steps)


def to_design(config: Mapping | DictConfig) -> Design:
    """The one conversion from Hydra's edge, where every field can be overridden, to the frozen, validated value.

    Raises:
        DesignError: if a value is impossible.
    """
    values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    return Design(**{field.name: values[field.name] for field in fields(Design) if field.name in values})


def options(group: str) -> list[str]:
    """The names that a config group has."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


@cache
def load(group: str, name: str) -> DictConfig:
    """One file of `conf/`."""
    path = CONF / group / f"{name}.yaml"
    if name not in (known := options(group)):
        raise ValueError(f"unknown {group} {name!r}{did_you_mean(name, known)} ({group}s: {', '.join(known)})")
    return OmegaConf.load(path)


def _overrides(config: DictConfig) -> dict[str, str | list[str]]:
    """{group: option} of a file's `defaults` entries of the form `override /group: option`."""
    entries = [item for item in config.get("defaults", ()) if isinstance(item, DictConfig)]
    return {
        str(key).removeprefix("override /"): value
        for entry in entries
        for key, value in entry.items()
        if value is not None
    }


def _with_bases(group: str, name: str) -> list[DictConfig]:
    """A file after the files of its group that its `defaults` name."""
    config = load(group, name)
    bases = [item for item in config.get("defaults", ()) if item != "_self_"]
    return [file for base in bases for file in _with_bases(group, base)] + [config]


def _only(sizes: DictConfig, default: int) -> int:
    if len(sizes) > 1:
        raise ValueError(f"steps {' and '.join(sizes)} contradict each other: a network has one kernel size")
    return next(iter(sizes.values()), default)


SIZES = ("tiny", "small", "base", "large", "xlarge")


def _by_size(values: DictConfig, otherwise: float, *, _root_: DictConfig) -> float:
    """The value for the size of ConvNeXt whose depths and width the design has; `otherwise` if none is listed."""
    for size in SIZES:
        named = load("design", f"convnext_{size}")
        if size in values and (_root_.design.depths, _root_.design.width) == (named.depths, named.width):
            return values[size]
    return otherwise


OmegaConf.register_new_resolver("by_size", _by_size, replace=True)
OmegaConf.register_new_resolver("widest", lambda widths: max(widths.values()), replace=True)
OmegaConf.register_new_resolver("only", _only, replace=True)
