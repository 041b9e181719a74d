"""What can be said on the command line, typed: the schema of `conf/`. Nothing here imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Union, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from experiments.errors import SettingsError
from experiments.listing import dataset_version, folder_name
from roadmap.designs import Design

READERS = ("sample", "torchvision", "folder", "imagenette", "tiny_imagenet", "tar", "hfds", "wds", "hfids")
"""What reads images: a module each of experiments/readers/."""
IN_MEMORY = ("sample", "torchvision")
"""Those of READERS that hold all images in memory, and need no loader workers."""
STREAMS = ("wds", "hfids")
"""Those of READERS whose images come in an order of their own, once an epoch."""

UNSTATED = "?"
"""For data.path where experiments.plan goes without."""


@dataclass
class Recipe:
    """How a network is trained: Tables 5 and 6 of the paper. `lr` is for `batch_size` images a step, not scaled."""

    name: str = MISSING
    epochs: int = MISSING
    batch_size: int = MISSING
    optimizer: str = "sgd"
    lr: float = MISSING
    min_lr: float = 0.0
    momentum: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    decay_1d: bool = True
    schedule: str = "cosine"
    warmup: str = "0"
    drops: list[str] = field(default_factory=list)
    drop_factor: float = 0.1
    interpolation: str = "bicubic"
    crop_pct: float | None = None
    """Of the resized evaluation image's side, the part that the centre crop keeps; 0.875 below 384 px, else 1."""
    rand_augment: str | None = None
    random_erasing: float = 0.0
    erasing_mode: str = "pixel"
    erasing_count: int = 1
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: str = "batch"
    label_smoothing: float = 0.0
    layer_decay: float = 1.0
    """Factor on the learning rate from one group of layers to the one before it; 1 for none."""
    clip_grad: float | None = None
    """Largest norm of a step's gradient; null for any."""
    ema: float = 0.0
    """Decay of the moving average of the weights, evaluated beside them; 0 for none."""


@dataclass
class Data:
    """What a network is trained on and evaluated on."""

    name: str = MISSING
    """What the dataset is called, in reports and in a run's identity, however it is stored."""
    reader: str = MISSING
    """What reads it: one of READERS."""
    path: str | None = None
    train: str = "train"
    val: str = "val"
    """The two parts: of a folder, its subfolders; elsewhere, the reader's names of its splits."""
    num_classes: int | None = None
    """Stated for known datasets, so that a study can be priced without them; null: as the data has."""
    train_images: int | None = None
    val_images: int | None = None
    """Likewise: how many the two parts have, whole. Read by experiments.plan alone, and not in a run's identity."""
    subset: float = 1.0
    """The part of the training images to train on, class-balanced."""
    holdout: float = 0.0
    """The part of the training images to evaluate on instead of the test images, class-balanced."""
    version: str | None = None
    """Which of several datasets of one name. Of one that is called after its folder, a digest of what lies there."""
    broken: str = "stop"
    """What to do about an image that can't be read: stop, or skip."""


@dataclass
class Logger:
    """Who is told of a run besides its record."""

    name: str = "none"
    """none, or wandb: a run at Weights & Biases."""
    project: str = "convnext-roadmap"
    entity: str | None = None
    """The user or team whose project it is; null for the account's own."""
    mode: str = "auto"
    """online, offline (kept in the run's directory), or auto: as W&B's settings say, or else by whether there is an
    account."""


def _mutable_design() -> type:
    """`Design` as OmegaConf can override it: mutable, a literal as its base type. `to_design` validates and freezes."""
    plain = {"depths": list[int], "groups": Union[int, str]}  # noqa: UP007 - what OmegaConf understands
    hints = get_type_hints(Design)
    columns = []
    for one in fields(Design):
        kind = plain.get(one.name, hints[one.name] if hints[one.name] in (int, float) else str)
        default = field(default_factory=lambda d=one.default: list(d)) if one.name == "depths" else one.default
        columns.append((one.name, kind, default))
    return make_dataclass("MutableDesign", columns, namespace={"__module__": __name__})


MutableDesign = _mutable_design()


@dataclass
class Config:
    """The root of the configuration. The order is that of `--cfg job`."""

    groups: ClassVar[tuple[str, ...]] = ("hydra", "rung", "step", "study")
    """Of conf/, besides those that are settings too."""

    regime: Any = MISSING
    widths: dict[str, int] = field(default_factory=dict)
    kernel_sizes: dict[str, int] = field(default_factory=dict)
    model: str = "design"
    design: MutableDesign = field(default_factory=MutableDesign)  # type: ignore[valid-type]
    recipe: Recipe = field(default_factory=Recipe)
    data: Data = field(default_factory=Data)
    resolution: int = MISSING
    precision: str = "float32"
    seed: int = 0
    init: str | None = None
    device_batch: int | None = None
    sync_batch_norm: bool = False
    study: str = "custom"
    orders: int = 16
    """How many random orders of the steps `study=orderings` walks; `order_seed` draws others."""
    order_seed: int = 0
    runs: str = "runs"
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    compile: bool = False
    gradient_checkpointing: bool = False
    checkpoint_minutes: float = 10
    keep: str = "last"
    logger: Logger = field(default_factory=Logger)


@dataclass
class EvaluationConfig:
    """The root of conf/evaluate.yaml. What is null is the run's own or, of published weights, as their makers say."""

    weights: str = MISSING
    model: str | None = None
    design: Any = None
    data: Data = field(default_factory=Data)
    resolution: int | None = None
    interpolation: str | None = None
    crop_pct: float | None = None
    precision: str = "float32"
    device: str = "auto"
    threads: int | None = None
    workers: int | None = None
    out: str | None = None


def register() -> None:
    """Make the schemas known to Hydra under the names that the defaults lists of conf/*.yaml begin with."""
    ConfigStore.instance().store(name="schema", node=Config)
    ConfigStore.instance().store(name="evaluation_schema", node=EvaluationConfig)


def folder_or_hub_name(path: str) -> str:
    """A folder's own name; of what is not there, the name that a dataset has on the hub."""
    return folder_name(path) if Path(path).expanduser().exists() else path


for resolver in (folder_name, folder_or_hub_name, dataset_version):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def fraction_of_run(text: str, key: str = "this") -> Fraction:
    """ "20/300", 20 of 300 epochs, as a fraction of the run in [0, 1]."""
    try:
        fraction = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(-1)
    if not 0 <= fraction <= 1:
        raise SettingsError(f"{key} must be a fraction of the run like 20/300, not {text!r}")
    return fraction
