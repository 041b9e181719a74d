"""What runs must share to be compared, and how to say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from omegaconf import OmegaConf

from roadmap.conf import OURS
from roadmap.roads import Road

DATASETS = {
    **{"fashion_mnist": "Fashion-MNIST", "fashion_mnist_sample": "Fashion-MNIST", "imagenet": "ImageNet-1K"},
    **{"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny ImageNet"},
    **{"imagenette": "Imagenette", "imagenette_320": "Imagenette 320", "imagenette_160": "Imagenette 160"},
}
"""By name in a record: the name as it is written."""


@dataclass(frozen=True)
class Context:
    """Everything that decides a result but the network, its recipe and the seed. Only runs of one context compare.

    Of its road only the rungs and its base count: not what they are called in words, nor what was published. Runs on a
    road that another one begins with stand in that one's context.
    """

    regime: str
    data: dict[str, Any]
    resolution: int
    precision: str | None
    differs: dict[str, Any]
    """Settings that differ from the rung as its regime trains it, but for the two that follow. Switches of the design
    are among them if several networks have the same ones: a whole ladder at another width, say."""
    epochs: int | None
    batch_size: int | None
    """None: the paper's for the recipe, so the ladder's first rung (90 epochs) stands beside the others (300)."""
    metric: str
    """The main one of the task, whose value is a run's `score`."""
    road: Road
    version: int = 0
    """Of several datasets of one name, the number of this one, in words only: which it is, `data` says."""
    road_name: str = ""
    """In words, if a study has several roads."""

    @classmethod
    def of(cls, run: Mapping[str, Any], road: Road) -> Context:
        """The context of a row of `Runs.runs`, without what its design has of its own."""
        schedule = {key: run[key] for key in ("epochs", "batch_size")}
        published = published_recipe(run["recipe_name"])
        if all(published.get(key) == value for key, value in schedule.items()):
            schedule = dict.fromkeys(schedule)
        differs = {key: run["differs"][key] for key in sorted(run["differs"]) if not key.startswith("design.")}
        return cls(
            **{key: run[key] for key in ("regime", "resolution", "precision", "metric")},
            road=road,
            data={key: value for key, value in run["data"].items() if key != "path"},  # another machine has another
            differs={key: value for key, value in differs.items() if key.removeprefix("recipe.") not in schedule},
            **schedule,
        )

    @cached_property
    def key(self) -> str:
        """Equal for runs that may be compared, as far as their roads allow it."""
        shared = vars(self) | {"data": _dataset(self.data), "road": None, "version": None, "road_name": None}
        return canonical(shared)

    @property
    def dataset(self) -> str:
        """The dataset's name as it is written."""
        name = DATASETS.get(self.data["name"], self.data["name"])
        return name + (", another version" if self.version else "") + (f" ({self.version})" if self.version > 1 else "")

    @property
    def on_imagenet(self) -> bool:
        return self.data["name"] == "imagenet"

    @property
    def scale(self) -> str:
        """What was measured, in a phrase."""
        what = f"{self.regime} scale on {self.dataset}" if self.regime == "nano" else f"{self.regime} on {self.dataset}"
        return what if self.on_imagenet or not self.road.published else f"{what}: not the paper's ImageNet results"

    @property
    def title(self) -> str:
        """Short, and another for every context of a study: the regime, the data, and what differs."""
        schedule = [epochs(self.epochs), f"batch {self.batch_size}"] if self.epochs else []
        road = f"road {self.road_name}" if self.road_name else ""
        parts = [f"{self.regime} on {self.dataset}", f"{self.resolution} px", road, *schedule, self.changes]
        return ", ".join(filter(None, parts))

    @property
    def changes(self) -> str:
        """`recipe.lr=0.01, ...`: what differs from the regime's own settings; empty for a plain ladder."""
        return ", ".join(f"{key}={value}" for key, value in self.differs.items())


def _dataset(data: Mapping[str, Any]) -> dict[str, Any]:
    """What of a run's data decides its result, as in its identity (experiments/config/run.py): which dataset, and which
    of its images; not how it is stored or read, nor how resized crops are rounded."""
    unset = {"version": None, "subset": 1, "holdout": 0, "reduced_decoding": False}
    streams, splits = data.get("reader") in ("wds", "hfids"), data.get("reader") in ("wds", "hfds", "hfids")
    parts = {key: str(data.get(key, key)).partition("|")[0] for key in ("train", "val")}
    if data.get("holdout") or (parts["val"] == "validation" and splits):
        parts["val"] = "val"
    classes = {"num_classes": data.get("num_classes")} if streams and data.get("version") is not None else {}
    return {"name": data["name"], **{key: data.get(key, value) for key, value in unset.items()}, **classes, **parts}


def epochs(*numbers: int) -> str:
    """ "1 epoch", "300 epochs", "90, 300 epochs"."""
    return f"{', '.join(map(str, numbers))} {'epoch' if numbers == (1,) else 'epochs'}"


@cache
def published_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe as the paper trains it; empty for a recipe that is not the paper's."""
    if name not in OURS.options("recipe"):
        return {}
    return OmegaConf.to_container(OURS.compose("resnet50", (), recipe=name).recipe, resolve=True)


def canonical(value: Any) -> str:
    """The same text for equal settings."""
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    """With whole floats as integers: W&B does not tell 1.0 from 1, and equal settings must compare equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value


def feature_maps(resolution: int) -> list[int]:
    """The side of the feature map in each of the four stages, in pixels."""
    return [max(resolution // stride, 1) for stride in (4, 8, 16, 32)]
