"""The settings of the command line with their types and bounds: the schema of `conf/`. Imports no torch."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar, Union, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments.config.dataset_folders import dataset_version, folder_name
from experiments.config.timm_names import Optimizer, RandAugment
from experiments.errors import SettingsError
from roadmap.common.bounds import Each, Number, OneOf, PathText, Text, setting
from roadmap.designs import RENAMED, Design
from roadmap.roads import MOST_ORDERS

READERS = ("sample", "torchvision", "folder", "imagenette", "tiny_imagenet", "tar", "hfds", "wds", "hfids")
"""What reads images: each is a module of experiments/data/readers/."""
IN_MEMORY = ("sample", "torchvision")
"""Those of READERS that hold all images in memory, and need no loader workers."""
STREAMS = ("wds", "hfids")
"""Those of READERS that deliver images in a fixed order, once per epoch."""

SMALL = 32
"""Pixels up to which images are padded and cropped, not resized; as in the authors' code."""

UNSTATED = "?"
"""data.path where experiments.plan needs no data."""

PRECISIONS = ("float32", "tf32", "bf16", "fp16")

INTERPOLATIONS = OneOf(("bilinear", "bicubic"))
DEVICES = OneOf(("auto", "cpu", "cuda", "mps"))
RESOLUTION = Number("[1, 8192]")
IMAGES = Number("[1, 1e12]")
THREADS = Number("[1, 4096]")
WORKERS = Number("[0, 1024]")
EPOCHS = Number("[1, 1_000_000]")


FINITE = Number("[0, 1e30]")
PART = Number("(0, 1]")
SEED = Number("[0, 2^63)")
NAME = Text(like="a name of 1 to 128 printable characters", longest=128)
TEXT = Text()


@dataclass(frozen=True)
class FractionOfRun:
    """The bounds of a text like 20/300."""

    def problem(self, text: str) -> str | None:
        try:
            fraction_of_run(text)
        except ValueError as error:
            return str(error)
        return None


@dataclass
class Recipe:
    """How a network is trained: Tables 5 and 6 of the paper. `lr` is for steps of `batch_size` images, not scaled."""

    name: str = setting(MISSING, NAME)
    epochs: int = setting(MISSING, EPOCHS)
    batch_size: int = setting(MISSING, Number("[1, 1_048_576]"))
    optimizer: str = setting("sgd", Optimizer())
    """sgd or adamw, torch's; or any of timm's, like timm:lamb."""
    lr: float = setting(MISSING, FINITE)
    min_lr: float = setting(0.0, FINITE)
    momentum: float = setting(0.0, Number("[0, 1)"))
    betas: list[float] = setting([0.9, 0.999], Each(Number("[0, 1)"), range(2, 4)))
    eps: float = setting(1e-8, Number("[0, 1]"))
    weight_decay: float = setting(0.0, FINITE)
    decay_norm_and_bias: bool = True
    schedule: str = setting("cosine", OneOf(("step", "cosine")))
    warmup: str = setting("0", FractionOfRun())
    milestones: list[str] = setting([], Each(FractionOfRun()))
    gamma: float = setting(0.1, PART)
    interpolation: str = setting("bicubic", INTERPOLATIONS)
    crop_pct: float | None = setting(None, PART)
    """The part of the resized evaluation image's side that the centre crop keeps; null: 0.875 below 384 px, else 1."""
    rand_augment: str | None = setting(None, RandAugment())
    random_erasing: float = setting(0.0, Number("[0, 1]"))
    erasing_mode: str = setting("pixel", OneOf(("const", "rand", "pixel")))
    erasing_count: int = setting(1, Number("[1, 100]"))
    mixup: float = setting(0.0, Number("[0, 1000]"))
    cutmix: float = setting(0.0, Number("[0, 1000]"))
    mixup_prob: float = setting(1.0, PART)
    mixup_switch_prob: float = setting(0.5, Number("[0, 1]"))
    """Where both are on, the part of the batches that gets cutmix."""
    mixup_mode: str = setting("batch", OneOf(("batch", "pair", "elem")))
    label_smoothing: float = setting(0.0, Number("[0, 1)"))
    layer_decay: float = setting(1.0, PART)
    """Factor on the learning rate from each group of layers to the one before it; 1 for none."""
    clip_grad: float | None = setting(None, Number("(0, 1e30]"))
    """Largest norm of a step's gradient; null for no limit."""
    ema_decay: float = setting(0.0, Number("[0, 1)"))
    """Decay of the moving average of the weights, which is evaluated, too; 0 for none."""


@dataclass
class Data:
    """What a network is trained on and evaluated on."""

    name: str = setting(MISSING, Text())
    """The dataset's name in reports and in a run's identity, however it is stored."""
    reader: str = setting(MISSING, OneOf(READERS))
    """What reads it: one of READERS."""
    path: str | None = setting(None, PathText())
    train: str = setting("train", TEXT)
    val: str = setting("val", TEXT)
    """The two parts: of a folder, its subfolders; elsewhere, the reader's names of its splits."""
    num_classes: int | None = setting(None, Number("[1, 1_000_000]"))
    """Stated for known datasets, so that a study can be priced without them; null: as the data has."""
    train_images: int | None = setting(None, IMAGES)
    val_images: int | None = setting(None, IMAGES)
    """Likewise: the images of the two parts, without `subset` and `holdout`. Used only before training, and not in a
    run's identity."""
    subset: float = setting(1.0, PART)
    """The part of the training images to train on, class-balanced."""
    holdout: float = setting(0.0, Number("[0, 1)"))
    """The part of the training images to evaluate on instead of those of `val`, class-balanced."""
    version: str | None = setting(None, NAME)
    """Which of several datasets of the same name. For one that is named after its folder, a digest of the folder."""
    cache: str | None = setting(None, OneOf(("memory", "device")))
    """Where the training images, small ones of one size, are kept once they have been read; null: each is read from its
    file whenever it is needed."""
    broken: str = setting("stop", OneOf(("stop", "skip")))
    """What to do about an image that can't be read."""
    reduced_decoding: bool = False
    """Whether training crops of JPEGs are decoded at the smallest of JPEG's scales (1/1, 1/2, 1/4, 1/8) that leaves
    them as large as the resolution: faster where photographs are large, with slightly different pixels."""


def _mutable_design() -> type:
    """`Design` as OmegaConf can override it: mutable, with str for literals. `to_design` validates and freezes."""
    plain = {"depths": list[int], "stem_stride": int, "groups": Union[int, str], "layers": dict[str, Any]}  # noqa: UP007 - for OmegaConf
    layers = DictConfig({}, flags={"struct": False})  # the user chooses the names: design.layers.NAME.at=hidden
    mutable: dict[str, Any] = {"depths": list(Design().depths), "layers": layers}
    hints = get_type_hints(Design)
    specs = []
    for switch in fields(Design):
        name, default = switch.name, switch.default
        if name in mutable:
            default = field(default_factory=mutable[name].copy)
        specs.append((name, plain.get(name, hints[name] if hints[name] in (int, float) else str), default))
    return make_dataclass("MutableDesign", specs, namespace={"__module__": __name__})


MutableDesign = _mutable_design()


@dataclass
class RoadSettings:
    """The choice made by `road=`, `rung=`, `step=` and `design=` (experiments/config/overrides.py)."""

    name: str = setting("convnext", NAME)
    """The road: a file of conf/road/."""
    steps: list[str] = setting([], Each(NAME))
    design: str | None = setting(None, NAME)


@dataclass
class Config:
    """The root of the configuration, in the order of `--cfg job`."""

    groups: ClassVar[tuple[str, ...]] = ("hydra", "step", "study")
    """Groups of conf/ that are not settings, too."""
    renamed: ClassVar[dict[str, str]] = {
        "study": "study_name",
        "device_batch": "micro_batch_size",
        **{f"design.{old}": f"design.{new}" for old, new in RENAMED.items()},
        "recipe.ema": "recipe.ema_decay",
        "regime.ema": "regime.ema_decay",
        "regime.full_regularization": "regime.scale_regularization",
        "recipe.drops": "recipe.milestones",
        "recipe.drop_factor": "recipe.gamma",
        "recipe.decay_1d": "recipe.decay_norm_and_bias",
    }
    """{setting of an earlier version: its new name}."""

    road: RoadSettings = field(default_factory=RoadSettings)
    rung: str | None = setting(None, NAME)
    regime: Any = MISSING
    widths: dict[str, int] = setting({}, Each(Number("[1, 65536]")))
    kernel_sizes: dict[str, int] = setting({}, Each(Number("[1, 255]")))
    full_epochs: int | None = setting(None, EPOCHS)
    """Epochs for which the recipe's regularization is meant; null if it is the same for any number."""
    model: str = setting("design", TEXT)
    design: MutableDesign = field(default_factory=MutableDesign)  # type: ignore[valid-type]
    recipe: Recipe = field(default_factory=Recipe)
    data: Data = field(default_factory=Data)
    resolution: int = setting(MISSING, RESOLUTION)
    precision: str = setting("auto", OneOf(("auto", *PRECISIONS)))
    """auto: bf16 on GPUs, float32 on anything else."""
    seed: int = setting(0, SEED)
    init: str | None = setting(None, PathText())
    micro_batch_size: int | None = setting(None, Number("[1, 1_048_576]"))
    """Images per pass on a device, at most; null for a process's whole share of the batch."""
    sync_batch_norm: bool = False
    study_name: str = setting("custom", NAME)
    orders: int = setting(16, Number(f"[1, {MOST_ORDERS}]"))
    """How many random orders of the steps `study=orderings` walks; `order_seed` draws different ones."""
    order_seed: int = setting(0, SEED)
    budgets: list[int] = setting([], Each(EPOCHS))
    """Of a study: epochs. Every network is trained with a complete schedule of each number."""
    subsets: list[float] = setting([], Each(PART))
    """Of a study: parts of the training images. Every network is trained on each, for so many more epochs that the
    number of updates stays the same."""
    tune: list[Any] = setting([])
    """Of a study: values of `tuning_setting`, of which each network gets the best on a holdout of the training
    images."""
    tuning_setting: str = setting("recipe.lr", Text(r"recipe\.\w+", "a setting of the recipe, like recipe.lr"))
    tuning_seeds: list[int] = setting([100, 101], Each(SEED, range(1, 1000)))
    tuning_holdout: float = setting(0.1, Number("(0, 1)"))
    looks: list[int] = setting([], Each(Number("[1, 100_000]"), ascending=True))
    """Of a study: the numbers of seeds at which its results are looked at, ascending, planned before the first."""
    fail_fast: int | None = setting(None, Number("[1, 1_000_000]"))
    """Of a study: how many runs may fail before it stops; null for any number."""
    max_hours: float | None = setting(None, Number("(0, 1e9]"))
    """Of a study: GPU-hours, or core-hours on a CPU, after which it launches no more runs."""
    stop_below: float | None = setting(None, FINITE)
    """Of a study: a run ends early when, after a third of its epochs or later, its metric is below the median of the
    finished runs at the same epoch by more than this."""
    runs: str = setting("runs", PathText())
    device: str = setting("auto", DEVICES)
    threads: int | None = setting(None, THREADS)
    workers: int | None = setting(None, WORKERS)
    compile: bool = False
    gradient_checkpointing: bool = False
    checkpoint_minutes: float = setting(10, Number("[0, 1_000_000]"))
    keep: str = setting("last", OneOf(("last", "all")))
    logger: Any = field(default_factory=lambda: OmegaConf.create({}, flags={"struct": False}))
    """A class and its settings, whose names that class defines: experiments/tracking/logger.py."""


@dataclass
class EvaluationConfig:
    """The root of conf/evaluate.yaml. null stands for the run's own value or, for published weights, their authors'."""

    weights: str = setting(MISSING, PathText())
    model: str | None = setting(None, TEXT)
    design: Any = None
    data: Data = field(default_factory=Data)
    resolution: int | None = setting(None, RESOLUTION)
    interpolation: str | None = setting(None, INTERPOLATIONS)
    crop_pct: float | None = setting(None, PART)
    precision: str = setting("float32", OneOf(PRECISIONS))
    device: str = setting("auto", DEVICES)
    threads: int | None = setting(None, THREADS)
    workers: int | None = setting(None, WORKERS)
    trust: bool = False
    """Whether to run code that the weights' run record names: layers from outside torch.nn, timm.layers and roadmap."""
    out: str | None = setting(None, PathText())


def register() -> None:
    """Make the schemas known to Hydra under the names that the defaults lists of conf/*.yaml begin with."""
    ConfigStore.instance().store(name="schema", node=Config)
    ConfigStore.instance().store(name="evaluation_schema", node=EvaluationConfig)


def folder_or_hub_name(path: str | None) -> str:
    """The name of a folder; a path that does not exist is the name of a dataset on the hub."""
    return folder_name(path) if path is None or Path(path).expanduser().exists() else path


for resolver in (folder_name, folder_or_hub_name, dataset_version):
    OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)


def fraction_of_run(text: str) -> Fraction:
    """ "20/300", 20 of 300 epochs, as a fraction of the run in [0, 1]."""
    fraction = Fraction(-1)
    # no exponents: Fraction would write out 1e-999999999
    if isinstance(text, str) and re.fullmatch(r"\d{1,9}/\d{1,9}|\d?\.?\d{1,9}", text):
        with suppress(ZeroDivisionError):
            fraction = Fraction(text)
    if not 0 <= fraction <= 1:
        raise SettingsError(f"must be a fraction of the run like 20/300, not {text!r}")
    return fraction
