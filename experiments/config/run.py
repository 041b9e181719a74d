"""A run: everything about one training, validated and frozen; and its identity, which is what decides its result."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from experiments.config.batch_plan import Split, split_batch
from experiments.config.checks import check_run
from experiments.config.code_digest import code_of
from experiments.config.initial_weights import Init, find_init
from experiments.config.logger import check_logger
from experiments.config.requested import Requested, requested
from experiments.config.settings import IN_MEMORY, SMALL, STREAMS, Data, Recipe
from experiments.config.task import CLASSIFICATION, Classification
from experiments.errors import SettingsError
from experiments.runtime.environment import world_size
from experiments.runtime.machine import has_gpus
from roadmap.common.files import read_object
from roadmap.conf import OURS, Conf, to_design
from roadmap.designs import Design, DesignError

TRAINING_VERSION = 2
"""Raised when the loop's results change for equal settings: earlier runs then count as different ones."""


@dataclass(frozen=True)
class Run:
    """One training run. The first group of fields decides its result and is its identity; the rest does not."""

    model: str
    design: Design
    recipe: Recipe
    data: Data
    resolution: int
    precision: str
    seed: int
    init: Init | None
    code: dict[str, str]
    """{dotted path: SHA-256} of the external code that the design names."""
    split: Split
    sync_batch_norm: bool

    regime: str
    requested: Requested
    study_name: str
    runs: Path
    device: str
    threads: int | None
    workers: int | None
    compile: bool
    gradient_checkpointing: bool
    checkpoint_minutes: float
    keep: str
    logger: dict[str, Any]
    stop_below: float | None = None
    look: dict[str, Any] = field(default_factory=dict)
    """Of a study's run: {number: of the look at its results for which this run was launched, from 1, planned: [seeds at
    each look]}; {} of a single run."""

    tuning: dict[str, Any] = field(default_factory=dict)
    """Of a run of the search of a tuned study: {setting: that is tuned, values: tried with this network, seeds: with
    each of them}."""

    @property
    def task(self) -> Classification:
        """What the network is trained for."""
        return CLASSIFICATION

    @property
    def crops_together(self) -> bool:
        """Whether training images are cropped a batch at a time; RandAugment takes them one by one."""
        in_memory = self.data.reader in IN_MEMORY and self.resolution <= SMALL and not self.workers
        return not self.recipe.rand_augment and (in_memory or self.data.cache is not None)

    @cached_property
    def identity(self) -> str:
        return _digest(self._decisive())

    @cached_property
    def series(self) -> str:
        """The identity without the seed: replicates share it."""
        decisive = self._decisive()
        del decisive["seed"]
        return _digest(decisive)

    @property
    def label(self) -> str:
        """What a person calls the network."""
        return self.requested.network

    @property
    def label_in_names(self) -> str:
        """The label as a part of a directory's name."""
        label = re.sub(r" (?=[+-])", "", self.label).replace(" ", "+").replace(":", "-").replace("/", "-")
        label = re.sub(r"[^\w.+-]+", ".", label).strip(".")  # what Hydra takes unquoted, as in init=runs/...
        return label if len(label) <= 60 else label[:57] + "..."

    @property
    def title(self) -> str:
        """The label, and what else differs: what replicates share."""
        differs = {key: value for key, value in self.requested.differs.items() if not key.startswith("design.")}
        return " ".join([self.label, *(f"{key}={value}" for key, value in differs.items())])

    @property
    def name(self) -> str:
        """The run's directory under `runs`: readable, and unique by the identity's first digits."""
        return self.directory.name

    @cached_property
    def directory(self) -> Path:
        """The directory that a run of this identity has already, whatever its label, or the one that it will have."""
        suffix = f"-seed{self.seed}-{self.identity[:8]}"
        name = f"{self.regime}-{self.label_in_names}{suffix}"
        existing = _existing(self.runs).get(suffix, [])
        for candidate in sorted(existing, key=lambda candidate: candidate != name):  # a different name may be a copy's
            if self._fits(self.runs / candidate):
                return self.runs / candidate
        is_taken = name in existing  # by a run whose identity has the same first digits
        return self.runs / (name + self.identity[8:16] if is_taken else name)

    def _fits(self, directory: Path) -> bool:
        """Whether a directory has this run's record, or none yet."""
        summary = read_object(directory / "summary.json")
        return directory.is_dir() and (summary is None or summary.get("identity") == self.identity)

    def with_cores(self, count: int) -> Run:
        """The run on `count` cores: as many threads and, for images that are files, as many loader workers."""
        workers = None if self.data.reader in IN_MEMORY else count
        return replace(self, threads=self.threads or count, workers=workers if self.workers is None else self.workers)

    def to_json(self) -> dict[str, Any]:
        """config.json: everything but where, and on which device, the run is trained."""
        return {
            "regime": self.regime,
            **_plain(self.requested.to_json()),
            **self._settings(),
            "init": {"source": self.init.source, "digest": self.init.digest} if self.init else None,
            "training_version": TRAINING_VERSION,
            "code": self.code,
            "micro_batch_size": self.split.micro_batch_size,
            "sync_batch_norm": self.sync_batch_norm,
            "look": self.look,
            "tuning": _plain(self.tuning),
        }

    def _settings(self) -> dict[str, Any]:
        values: dict[str, Any] = {"model": self.model, "design": self.design.to_json(), "recipe": asdict(self.recipe)}
        values |= {"data": asdict(self.data), "resolution": self.resolution}
        return _plain(values | {"precision": self.precision, "seed": self.seed})

    def _decisive(self) -> dict[str, Any]:
        """What decides the result. A setting at its default does not count: one that is added later and is off by
        default leaves the identities of earlier runs as they were."""
        decisive = self._settings()
        for name, unset in {"design": Design().to_json(), "recipe": asdict(Recipe())}.items():
            decisive[name] = {key: value for key, value in decisive[name].items() if value != unset[key]}
        decisive["data"] = _dataset(self.data) | self._crops()
        del decisive["recipe"]["name"]  # its settings count
        if self.design.layers:  # whose names do not count either
            decisive["design"]["layers"] = sorted((layer.to_json() for layer in self.design.layers), key=json.dumps)
        decisive |= {"code": self.code} if self.code else {}
        decisive["training_version"] = TRAINING_VERSION
        if self.model != "design":  # of a timm model, the recipe's stochastic depth alone counts
            decisive["design"] = {"drop_path": self.design.drop_path}
        if self.init:
            decisive["init"] = self.init.digest or self.init.source
        return decisive | self._together()

    def _crops(self) -> dict[str, bool]:
        """Crops that are resized as a batch are rounded differently than one by one."""
        return {"crops_together": True} if self.crops_together and self.resolution > SMALL else {}

    def _together(self) -> dict[str, int]:
        """How many images are mixed, and normalised, together, where that is not the whole batch."""
        size = self.split.micro_batch_size
        counts = {}
        if self.recipe.mixup or self.recipe.cutmix:
            counts["mixed_together"] = size
        if self.model != "design" or self.design.norm == "batch" or self.design.dotted():  # which may have a BatchNorm
            counts["normalised_together"] = size * (self.split.processes if self.sync_batch_norm else 1)
        return {name: count for name, count in counts.items() if count != self.recipe.batch_size}


def _dataset(data: Data) -> dict[str, Any]:
    """The settings of the data that decide the result: which dataset, and which of its images; not how it is stored or
    read. analysis/statistics/context.py groups records by the same."""
    unset = asdict(Data())
    names = ["name", "version", "subset", "holdout", "reduced_decoding"]
    if data.reader in STREAMS and data.version is not None:  # whose number of classes is not counted
        names.append("num_classes")
    chosen = {key: getattr(data, key) for key in names}
    parts = {"train": _part(data, data.train), "val": "val" if data.holdout else _part(data, data.val)}
    return {key: value for key, value in (chosen | parts).items() if value != unset[key]}


def _part(data: Data, name: str) -> str:
    """A part's name without its stated number of images; val for Hugging Face's validation."""
    name = name.partition("|")[0]
    return "val" if name == "validation" and data.reader in ("hfds", "hfids", "wds") else name


def to_run(
    config: DictConfig,
    overrides: Sequence[str] = (),
    processes: int | None = None,
    gpus: bool | None = None,
    conf: Conf = OURS,
) -> Run:
    """The run of a configuration that Hydra composed from `overrides` and the folders of `conf`. `processes` will train
    it together, on `gpus` or not; by default as many as this process is one of, on GPUs if there are any.

    Raises:
        SettingsError: if there is no such setting, or its value is impossible.
    """
    check_run(config, conf)
    split = split_batch(config.recipe.batch_size, config.micro_batch_size, processes or world_size())
    if (config.recipe.mixup or config.recipe.cutmix) and split.micro_batch_size % 2:
        raise SettingsError(
            "recipe.mixup and recipe.cutmix pair images, so the images that a device takes at once must be even, "
            f"not {split.micro_batch_size} (recipe.batch_size={config.recipe.batch_size}, "
            f"micro_batch_size={config.micro_batch_size})"
        )
    try:
        design = to_design(config.design)
    except DesignError as error:
        raise SettingsError(f"design.{error}") from error
    recipe: Recipe = OmegaConf.to_object(config.recipe)  # type: ignore[assignment]
    data: Data = OmegaConf.to_object(config.data)  # type: ignore[assignment]
    overridden = {override.partition("=")[0] for override in overrides}
    if "data.name" in overridden and "data.version" not in overridden:
        data.version = None  # whoever names a dataset vouches that equal names are equal data
    return Run(
        model=config.model,
        design=design,
        recipe=recipe,
        data=data,
        resolution=config.resolution,
        precision=_precision(config, gpus),
        seed=config.seed,
        init=find_init(config.init),
        code=code_of(design) if config.model == "design" else {},
        split=split,
        sync_batch_norm=config.sync_batch_norm,
        regime=config.regime.name,
        requested=requested(config, design, recipe, data, config.init, conf),
        study_name=config.study_name,
        runs=Path(config.runs),
        device=config.device,
        threads=config.threads,
        workers=config.workers,
        compile=config.compile,
        gradient_checkpointing=config.gradient_checkpointing,
        checkpoint_minutes=config.checkpoint_minutes,
        keep=config.keep,
        logger=check_logger(config.logger),
        stop_below=config.stop_below,
    )


def _existing(runs: Path) -> dict[str, list[str]]:
    """{suffix: names} of the runs' directories in a folder; the suffix is the seed and the identity's first digits."""
    with suppress(OSError):
        return _listed(runs, runs.stat().st_mtime_ns)
    return {}


@cache
def _listed(runs: Path, modified: int) -> dict[str, list[str]]:
    """The same, read once for each time that the folder was `modified`."""
    names: dict[str, list[str]] = {}
    for name in sorted(os.listdir(runs)):
        if match := re.search(r"-seed\d+-[0-9a-f]{8}(?=([0-9a-f]{8})?$)", name):
            names.setdefault(match[0], []).append(name)
    return names


def _precision(config: DictConfig, gpus: bool | None) -> str:
    if config.precision != "auto":
        return config.precision
    if config.device == "auto":
        return "bf16" if (has_gpus() if gpus is None else gpus) else "float32"
    return "bf16" if config.device == "cuda" else "float32"


def _plain(value: Any) -> Any:
    """As JSON reads it back: lists for tuples."""
    return json.loads(json.dumps(value))


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
