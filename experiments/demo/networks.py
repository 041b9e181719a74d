"""The networks that answer: of each rung of a study's road the first seed that is done, then the study's other
networks, then published ones."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from analysis.sources.load import load
from analysis.sources.rows import TOP1
from analysis.sources.runs import RecordsError
from analysis.statistics.comparison import Comparison, comparisons
from experiments.config.initial_weights import find_init
from experiments.data.readers.sample import CLASSES as FASHION_MNIST
from experiments.errors import SettingsError
from experiments.evaluate.model import TransformSettings, find_model
from experiments.records.schema import class_names_of
from roadmap.common.files import printable
from roadmap.roads import Rung

MOST_OTHERS = 8
"""How many networks that are no rungs are shown."""
GREY = {"fashion_mnist": FASHION_MNIST, "fashion_mnist_sample": FASHION_MNIST}
"""Datasets of grey images, and what their classes are called: records did not always say so."""
OTHERS, PUBLISHED = "Other networks of this study", "Published weights"


@dataclass(frozen=True)
class DemoNetwork:
    title: str
    section: str
    """The heading under which it is shown."""
    module: nn.Module
    """In evaluation mode."""
    class_names: tuple[str, ...]
    transform: TransformSettings
    rung: str | None = None
    is_adopted: bool = True
    seed: int | None = None
    is_grey: bool = False
    """Whether it was trained on grey images."""


def find_study(folders: Sequence[str]) -> Comparison:
    """The runs that are shown: the first comparison of the report whose runs classify and have weights.

    Raises:
        RecordsError: if there is none.
    """
    try:
        runs = load(folders)
    except RecordsError as error:
        raise RecordsError(f"{error}; make ladder trains a road into the folder runs") from error
    for comparison in comparisons(runs):
        if comparison.metric == TOP1 and len(_with_weights(comparison.counted)):
            return comparison
    raise RecordsError(f"no run in {', '.join(folders)} is done and has a weights.pt; make ladder trains a road")


def of_study(study: Comparison, *, trust: bool = False) -> tuple[list[DemoNetwork], list[str]]:
    """The networks of a study that can answer, in the road's order, and one line about each of those that can't."""
    networks, problems = [], []
    for choice in _choices(study):
        try:
            networks.append(_of_run(choice, trust=trust))
        except (SettingsError, OSError) as error:
            problems.append(printable(f"{choice['title']}: {error}"))
    return networks, problems


def published(source: str) -> DemoNetwork:
    """The network of `torchvision:MODEL.WEIGHTS` or `timm:MODEL.TAG`, downloaded where needed.

    Raises:
        SettingsError: if there is none of that name, or it can't be downloaded.
    """
    library, _, name = source.partition(":")
    if library not in ("torchvision", "timm"):
        raise SettingsError(f"--weights {source} is not like torchvision:resnet50.IMAGENET1K_V2 or timm:MODEL.TAG")
    init = find_init(source)
    assert init is not None  # only of None
    model = find_model(init, None, None)
    from torchvision.models import ResNet50_Weights

    names = ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    known = tuple(names) if model.classes == len(names) else _numbered(model.classes)
    return DemoNetwork(name, PUBLISHED, model.network.eval().requires_grad_(False), known, model.transform)


def runs_of(study: Comparison, rung: Rung) -> pd.DataFrame:
    """The finished runs of a rung, by seed."""
    runs = study.counted
    return runs.loc[[steps == frozenset(rung.steps) for steps in runs["set"]]].sort_values("seed")


def _choices(study: Comparison) -> list[dict[str, Any]]:
    """Of each network the first run with weights, by seed: the rungs in the road's order, then some others."""
    titles = dict(study.road.sections)
    choices = []
    for rung in study.road.rungs:
        runs = _with_weights(runs_of(study, rung))
        heading = f"{rung.section} {titles[rung.section]}" if titles[rung.section] != rung.section else rung.section
        about = {"title": rung.title, "section": heading, "rung": rung.name, "is_adopted": rung.adopted}
        choices += [_first(runs) | about] if len(runs) else []
    of_rungs = {frozenset(rung.steps) for rung in study.road.rungs}
    others = _with_weights(study.counted[~study.counted["set"].isin(of_rungs)].sort_values("seed"))
    for name, runs in list(others.groupby("network"))[:MOST_OTHERS]:
        choices.append(_first(runs) | {"title": name, "section": OTHERS})
    return choices


def _first(runs: pd.DataFrame) -> dict[str, Any]:
    return runs.iloc[0][["path", "seed", "data"]].to_dict()


def _with_weights(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.loc[[os.path.isfile(os.path.join(path, "weights.pt")) for path in runs["path"]]]


def _of_run(choice: dict[str, Any], *, trust: bool) -> DemoNetwork:
    path, data = Path(choice.pop("path")), choice.pop("data")
    init = find_init(str(path))
    assert init is not None  # only of None
    model = find_model(init, None, None, trust=trust)
    known = class_names_of(path, model.classes) or GREY.get(data["name"], ())
    names = known if known and len(known) == model.classes else _numbered(model.classes)
    module = model.network.eval().requires_grad_(False)
    return DemoNetwork(
        module=module, class_names=names, transform=model.transform, is_grey=data["name"] in GREY, **choice
    )


def _numbered(classes: int) -> tuple[str, ...]:
    return tuple(f"class {number}" for number in range(classes))
