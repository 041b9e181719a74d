"""What runs must share to be compared, and how to describe it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, cast

from omegaconf import OmegaConf

from roadmap.conf import OURS
from roadmap.roads import Road

DATASETS = {
    **{"fashion_mnist": "Fashion-MNIST", "fashion_mnist_sample": "Fashion-MNIST", "imagenet": "ImageNet-1K"},
    **{"cifar10": "CIFAR-10", "cifar100": "CIFAR-100", "tiny_imagenet": "Tiny ImageNet"},
    "tiny_imagenet_32": "Tiny ImageNet",
    **{"imagenette": "Imagenette", "imagenette_320": "Imagenette 320", "imagenette_160": "Imagenette 160"},
}
"""By name in a record: the dataset's usual name."""


@dataclass(frozen=True)
class Context:
    """Everything that decides a result except the network, its recipe and the seed. Only runs of one context compare.

    Roads are the same if their rungs and their base are, whatever their titles and published numbers. Runs on a road
    with which another one begins belong to the context of the longer one.
    """

    regime: str
    data: dict[str, Any]
    resolution: int
    precision: str | None
    differs: dict[str, Any]
    """Settings that differ from how the regime trains the rung, except for the two that follow. They include switches
    of the design that several networks share: of a whole ladder at another width, say."""
    epochs: int | None
    batch_size: int | None
    """None: the paper's for the recipe, so that the ladder's first rung (90 epochs of batches of 256) compares with the
    others (300 of 4,096); of the epochs, only together with the batch size."""
    metric: str
    """The task's main metric, whose value is a run's `score`."""
    road: Road
    version: int = 0
    """The number of this dataset among several with the same name, for titles only: `data` identifies it."""
    road_name: str = ""
    """For titles, if a study has several roads."""

    @classmethod
    def of(cls, run: Mapping[str, Any], road: Road) -> Context:
        """The context of a row of `Runs.runs`, without switches of its design."""
        published = published_recipe(run["recipe_name"])
        schedule = {key: run[key] for key in ("epochs", "batch_size")}
        if published.get("batch_size") == schedule["batch_size"]:
            schedule["batch_size"] = None
            schedule["epochs"] = None if published["epochs"] == schedule["epochs"] else schedule["epochs"]
        differs = {key: run["differs"][key] for key in sorted(run["differs"]) if not key.startswith("design.")}
        return cls(
            **{key: run[key] for key in ("regime", "resolution", "precision", "metric")},
            road=road,
            data={key: value for key, value in run["data"].items() if key != "path"},  # it differs between machines
            differs={key: value for key, value in differs.items() if key.removeprefix("recipe.") not in schedule},
            **schedule,
        )

    @cached_property
    def key(self) -> str:
        """Equal for runs that may be compared if their roads allow it."""
        return canonical(vars(self) | {"data": _dataset(self.data), "road": None, "version": None, "road_name": None})

    @property
    def dataset(self) -> str:
        """The dataset's name, for titles."""
        name = DATASETS.get(self.data["name"], self.data["name"])
        return name + (", another version" if self.version else "") + (f" ({self.version})" if self.version > 1 else "")

    @property
    def on_imagenet(self) -> bool:
        return self.data["name"] == "imagenet"

    @property
    def scale(self) -> str:
        """What was measured, in a phrase."""
        regime = f"{self.regime} scale" if self.regime in ("nano", "small") else self.regime
        scale = f"{regime} on {self.dataset}"
        is_papers = self.on_imagenet and self.regime == self.road.published
        return scale if is_papers or not self.road.published else f"{scale}: not the paper's ImageNet results"

    @property
    def title(self) -> str:
        """Short and unique within a study: the regime, the data, and the settings that differ."""
        schedule = [epochs(self.epochs)] if self.epochs else []
        schedule += [f"batch {self.batch_size}"] if self.batch_size else []
        road = f"road {self.road_name}" if self.road_name else ""
        parts = [f"{self.regime} on {self.dataset}", f"{self.resolution} px", road, *schedule, self.changes]
        return ", ".join(filter(None, parts))

    @property
    def changes(self) -> str:
        """`recipe.lr=0.01, ...`: the settings that differ from the regime's; empty for a plain ladder."""
        return ", ".join(f"{key}={value}" for key, value in self.differs.items())


def _dataset(data: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run's data that decide its result, as in its identity (experiments/config/run.py): which
    dataset, and which of its images; not how it is stored or read, nor how resized crops are rounded."""
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
    return cast(dict[str, Any], OmegaConf.to_container(OURS.compose("resnet50", (), recipe=name).recipe, resolve=True))


def canonical(value: Any) -> str:
    """The same text for equal settings."""
    return json.dumps(_plain(value), sort_keys=True, default=str)


def _plain(value: Any) -> Any:
    """The value with whole floats as integers: W&B turns 1.0 into 1, and equal settings must compare equal."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def feature_maps(resolution: int, stem_stride: int = 4) -> list[int]:
    """The side of the feature map in each of the four stages, in pixels."""
    return [max(resolution // (stem_stride * 2**stage), 1) for stage in range(4)]
