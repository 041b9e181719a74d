"""A network of a study: its runs, and what each of them takes in time, memory and disk space."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

from experiments.config.run import Run
from experiments.config.settings import Recipe
from experiments.data.evaluation import KEPT_BYTES
from experiments.errors import SettingsError
from experiments.launch.preflight import Amounts, check_amounts, check_layers, check_optimizer
from experiments.plan.memory import Footprint, footprint
from experiments.records.record import is_ended, read_summary
from experiments.training.checkpoint import KEPT
from roadmap.designs import Design

CLASSES = 1000
"""Where their number is not known."""
RECIPE, DESIGN = asdict(Recipe()), Design().to_json()
"""The defaults, which a record of an earlier version may lack."""
SCHEDULE: tuple[str, ...] = (
    "name",
    "epochs",
    "lr",
    "min_lr",
    "weight_decay",
    "schedule",
    "warmup",
    "milestones",
    "gamma",
)
SCHEDULE += ("mixup_prob", "mixup_switch_prob")
"""Settings of a recipe that change little or nothing about how long an image takes."""
STRENGTHS: tuple[str, ...] = (
    "momentum",
    "random_erasing",
    "mixup",
    "cutmix",
    "label_smoothing",
    "clip_grad",
    "ema_decay",
)
STRENGTHS += ("layer_scale", "drop_path")
"""Settings of a recipe or a design that are off at 0; how long an image takes depends only on whether they are on."""


@dataclass(frozen=True)
class Pace:
    """Seconds per image, for one process with a device of its own; of runs that share a GPU, their part of its time.
    With the input, unless it is not known."""

    macs: int
    """Multiply-adds of the network's forward pass."""
    training: float
    """A training step."""
    evaluation: float
    """A forward pass over an image that is transformed already."""
    preparation: float
    """What it adds to an evaluation that its images must first be read and transformed."""
    source: str
    """stated, recorded, measured; shared: recorded of runs that shared a GPU as these are to; between: from networks
    with fewer and with more multiply-adds."""

    def scaled(self, factor: float) -> Pace:
        """The pace of a device that takes `factor` times as long."""
        training, evaluation, preparation = (factor * it for it in (self.training, self.evaluation, self.preparation))
        return replace(self, training=training, evaluation=evaluation, preparation=preparation)


@dataclass(frozen=True)
class Network:
    """Runs that differ in their seed alone, and what one of them takes. What cannot be known is None."""

    runs: tuple[Run, ...]
    amounts: Amounts
    footprint: Footprint
    kind: str = ""
    """Networks of one kind (`kind_of`) take as long per image."""
    pace: Pace | None = None
    input_cores: float | None = None
    """Cores that prepare images as fast as one device trains on them; None if that is not measured."""
    images_per_core: float | None = None
    """Training images per second that a core reads and transforms."""

    @property
    def run(self) -> Run:
        """The first."""
        return self.runs[0]

    @property
    def classes(self) -> int:
        return self.amounts.classes or CLASSES

    @property
    def macs(self) -> int:
        """Multiply-adds of the forward pass of one image."""
        return self.footprint.macs

    @property
    def memory(self) -> int | None:
        """Bytes of each device."""
        return self.footprint.memory(self.run.split.micro_batch_size)

    @cached_property
    def missing(self) -> list[float]:
        """Of each run that has not ended, the part of its epochs that is missing."""
        return [1 - _epochs_done(run) / run.recipe.epochs for run in self.runs if not is_ended(run)]

    @property
    def done(self) -> int:
        return len(self.runs) - len(self.missing)

    @property
    def partly(self) -> int:
        """Runs that have finished some epochs, which `seconds_left` does not count again."""
        return sum(part < 1 for part in self.missing)

    @property
    def seconds(self) -> float | None:
        """Of one run on all its devices: its full steps, and after every epoch an evaluation of the weights and of
        their average. If it shares a GPU: as if it did not, or with a pace of shared runs, its part of the GPU's time.
        """
        training, evaluation, recipe = self.amounts.training, self.amounts.evaluation, self.run.recipe
        if self.pace is None or training is None or evaluation is None:
            return None
        trained = training // recipe.batch_size * recipe.batch_size * recipe.epochs
        evaluations = recipe.epochs * (2 if recipe.ema_decay else 1)
        preparations = 1 if evaluation * 3 * self.run.resolution**2 <= KEPT_BYTES else recipe.epochs
        evaluated = evaluation * (evaluations * self.pace.evaluation + preparations * self.pace.preparation)
        return (trained * self.pace.training + evaluated) / self.run.split.processes

    @property
    def seconds_left(self) -> float | None:
        """Of all missing runs, one after the other."""
        return self.seconds and self.seconds * sum(self.missing) if self.missing else 0.0

    def checkpoint_bytes(self, runs_per_gpu: int) -> int:
        """The most that a run has on the disk: a new checkpoint is written before the oldest is removed; or with
        keep=all, every one."""
        run = self.run
        if run.keep == "last":
            return (KEPT + 1) * self.footprint.checkpoint
        seconds_per_epoch = (self.seconds or 0) * runs_per_gpu / run.recipe.epochs
        within_epoch = int(seconds_per_epoch / (60 * run.checkpoint_minutes or 1))
        return (run.recipe.epochs - 1 + run.recipe.epochs * within_epoch) * self.footprint.checkpoint

    def to_json(self) -> dict[str, Any]:
        return {
            "title": self.run.title,
            "runs": len(self.runs),
            "done": self.done,
            "partly": self.partly,
            "macs": self.macs,
            "params": self.footprint.params,
            "epochs": self.run.recipe.epochs,
            "training_images": self.amounts.training,
            "evaluation_images": self.amounts.evaluation,
            "seconds": self.seconds,
            "seconds_left": self.seconds_left,
            "pace": self.pace and self.pace.source,
            "input_images_per_second_per_core": self.images_per_core,
            "input_cores_per_device": self.input_cores,
            "memory_bytes": self.memory,
            "weights_bytes": self.footprint.weights,
            "checkpoint_bytes": self.footprint.checkpoint,
        }


def kind_of(run: Run, classes: int) -> str:
    """What the time and the memory of an image depend on: runs of one kind may differ in their number of epochs or
    images, in their seed, their learning rate, or in how strongly they are regularized."""
    data = run.data.reader, run.data.path, run.data.cache, run.data.reduced_decoding
    how = run.split, run.compile, run.gradient_checkpointing, run.workers
    return repr((pace_settings(run.to_json()), data, how, classes))


def pace_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's config.json, what decides how long one of its images takes on a given machine. All budgets of a
    network have the same: a shorter one is regularized less, but in the same ways."""
    recipe, design = RECIPE | config["recipe"], DESIGN | config["design"]
    return {
        "recipe": {name: _pace_setting(name, recipe[name]) for name in recipe if name not in SCHEDULE},
        "design": {name: _pace_setting(name, design[name]) for name in design},
        "data": config["data"]["name"],
        **{name: config.get(name) for name in ("model", "resolution", "precision", "micro_batch_size")},
    }


def _pace_setting(name: str, value: Any) -> Any:
    if name in STRENGTHS:
        return bool(value)
    if name == "rand_augment" and isinstance(value, str):
        return re.sub(r"-(m|mmax|mstd|p)[\d.]+", "", value)  # how strong and how likely its operations are
    return value


def check(run: Run, amounts: Amounts) -> None:
    """
    Raises:
        SettingsError: if the run's network or optimizer is impossible, or there are too few images.
    """
    check_amounts(run, amounts)
    check_optimizer(run)
    check_layers(run)


def footprints(runs: Sequence[tuple[Run, int]]) -> list[Footprint | SettingsError]:
    """What each of these runs takes, given its number of classes; or why it can't be trained: its network does not take
    images of this size."""
    counted: list[Footprint | SettingsError] = []
    for run, classes in runs:
        try:
            counted.append(footprint(run, classes))
        except SettingsError as error:
            counted.append(error)
    return counted


def _epochs_done(run: Run) -> int:
    summary = read_summary(run.directory) or {}
    return summary.get("epochs_done") or 0 if summary.get("identity") == run.identity else 0
