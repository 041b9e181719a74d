"""What can be said on the command line, typed, and its one conversion into a `Run`.

Hydra composes `conf/` into a `Config`; `to_run` turns that into a frozen, validated `Run`, which is all that training
sees. Nothing here imports torch: a mistake comes back at once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any, Union, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from experiments.errors import SettingsError, unknown_key
from experiments.timm_names import check_timm_name
from roadmap.designs import Design, DesignError, did_you_mean
from roadmap.steps import compose, ladder, regimes, rung_steps, to_design


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
    rand_augment: str | None = None
    random_erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    label_smoothing: float = 0.0


@dataclass
class Data:
    """What a network is trained on and evaluated on."""

    name: str = MISSING
    path: str | None = None
    num_classes: int = MISSING
    subset: float = 1.0
    holdout: float = 0.0


def _mutable_design() -> type:
    """`Design` as OmegaConf can override it: mutable, a literal as its base type. `to_design` validates and freezes."""
    plain = {"depths": list[int], "groups": Union[int, str]}  # noqa: UP007 - what OmegaConf understands
    hints = get_type_hints(Design)
    columns = []
    for one in fields(Design):
        kind = plain.get(one.name, hints[one.name] if hints[one.name] in (int, float) else str)
        default = field(default_factory=lambda d=one.default: list(d)) if one.name == "depths" else one.default
        assert default is not NO_DEFAULT
        columns.append((one.name, kind, default))
    return make_dataclass("MutableDesign", columns, namespace={"__module__": __name__})


MutableDesign = _mutable_design()


@dataclass
class Config:
    """The root of the configuration. The order is that of `--cfg job`."""

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
    study: str = "custom"
    runs: str = "runs"
    device: str = "auto"
    threads: int | None = None
    workers: int = 0


def register() -> None:
    """Make the schema known to Hydra under the name that conf/config.yaml's defaults list begins with."""
    ConfigStore.instance().store(name="schema", node=Config)


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

    regime: str
    rung: str | None
    steps: tuple[str, ...] | None
    differs: dict[str, Any]
    runs: Path
    device: str
    threads: int | None
    workers: int

    @property
    def identity(self) -> str:
        return _digest(self._decisive())

    @property
    def series(self) -> str:
        """The identity without the seed: replicates share it."""
        decisive = self._decisive()
        del decisive["seed"]
        return _digest(decisive)

    @property
    def label(self) -> str:
        """What a person calls the network: rung, timm model, or the steps that are on."""
        if self.model != "design":
            return self.model
        if self.rung:
            return self.rung
        return "+".join(self.steps) if self.steps else "design"

    @property
    def name(self) -> str:
        """The run's directory under `runs`: readable, and unique by the identity's first digits."""
        label = self.label.replace(":", "-").replace("/", "-")
        label = label if len(label) <= 60 else label[:57] + "..."
        return f"{self.regime}-{label}-seed{self.seed}-{self.identity[:8]}"

    @property
    def directory(self) -> Path:
        return self.runs / self.name

    def to_json(self) -> dict[str, Any]:
        """config.json: everything but where and on what the run runs."""
        labels = {
            "regime": self.regime,
            "rung": self.rung,
            "steps": None if self.steps is None else list(self.steps),
            "differs": self.differs,
        }
        return labels | self._decisive(whole_design=True)

    def _decisive(self, *, whole_design: bool = False) -> dict[str, Any]:
        design = asdict(self.design)
        if self.model != "design" and not whole_design:  # of a timm model, the recipe's stochastic depth alone counts
            design = {"drop_path": self.design.drop_path}
        data = asdict(self.data)
        del data["path"]
        return {
            "model": self.model,
            "design": json.loads(json.dumps(design)),
            "recipe": asdict(self.recipe),
            "data": data,
            "resolution": self.resolution,
            "precision": self.precision,
            "seed": self.seed,
        }


def to_run(config: DictConfig, overrides: Sequence[str] = ()) -> Run:
    """The run that a composed configuration asks for. `overrides` are those that Hydra composed it from.

    Raises:
        SettingsError: if there is no such setting, or its value is impossible.
    """
    _check_names(config)
    _check_steps(overrides)
    try:
        design = to_design(config.design)
    except DesignError as error:
        raise SettingsError(f"design.{error}") from error
    recipe: Recipe = OmegaConf.to_object(config.recipe)
    data: Data = OmegaConf.to_object(config.data)
    run = Run(
        model=config.model,
        design=design,
        recipe=recipe,
        data=data,
        resolution=config.resolution,
        precision=config.precision,
        seed=config.seed,
        regime=config.regime.name,
        rung=None,
        steps=None,
        differs={},
        runs=Path(config.runs),
        device=config.device,
        threads=config.threads,
        workers=config.workers,
    )
    _check(run)
    return _labelled(run)


def _labelled(run: Run) -> Run:
    """The run with its place on the ladder: the rung and the steps that make its network, and what else differs."""
    if run.model != "design":
        return run
    for rung in _ladder(run.regime):
        if (rung.design, rung.recipe) == (run.design, run.recipe.name):
            return replace(run, rung=rung.name, steps=rung.steps, differs=_differences(run, rung.steps))
    steps = steps_of(run.regime, run.design, run.recipe.name)
    return replace(run, steps=steps, differs={} if steps is None else _differences(run, steps))


@cache
def _ladder(regime: str):
    return ladder(regime)


def steps_of(regime: str, design: Design, recipe: str) -> tuple[str, ...] | None:
    """The steps that make this design in this regime, in the paper's order; None if none do."""
    start = to_design(compose(regime, ()).design)
    on = []
    for rung in _ladder(regime)[1:]:
        step = rung.name
        flipped = compose(regime, [step])
        target = to_design(flipped.design)
        changed = [one.name for one in fields(Design) if getattr(target, one.name) != getattr(start, one.name)]
        narrow = [name for name in changed if name != "width"] or changed
        if step == "modern_recipe":
            is_on = recipe == flipped.recipe.name
        else:
            is_on = bool(narrow) and all(getattr(design, name) == getattr(target, name) for name in narrow)
        if is_on:
            on.append(step)
    return tuple(on) if to_design(compose(regime, on).design) == design else None


def _differences(run: Run, steps: tuple[str, ...]) -> dict[str, Any]:
    """{setting: value} where the run differs from what its regime trains with these steps."""
    expected = compose(run.regime, steps)
    recipe = OmegaConf.to_container(expected.recipe, resolve=True)
    different = {
        f"recipe.{name}": value
        for name, value in asdict(run.recipe).items()
        if value != recipe.get(name, asdict(Recipe())[name])
    }
    if run.resolution != expected.resolution:
        different["resolution"] = run.resolution
    return different


def _check_names(config: DictConfig) -> None:
    """Refuse what `+name=value` adds to the configuration and nothing reads."""
    for path, schema in {"": Config, "design": MutableDesign, "recipe": Recipe, "data": Data}.items():
        known = {one.name for one in fields(schema)} | {"hydra"}
        for name in OmegaConf.select(config, path) if path else config:
            if name not in known:
                raise SettingsError(unknown_key(f"{path}.{name}".lstrip("."), Config))
    if (name := config.regime.name) not in regimes():
        raise SettingsError(f"regime.name must be one of {', '.join(regimes())}, not {name!r}")


def _check_steps(overrides: Sequence[str]) -> None:
    """Refuse `rung` and `step` together: Hydra would silently take the latter alone."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    if given.get("rung", "null") != "null" and "step" in given:
        steps = ",".join(rung_steps(given["rung"]))
        raise SettingsError(f"rung={given['rung']} is step=[{steps}]: name either the rung or all the steps, not both")


CHOICES = {
    "recipe.optimizer": ("sgd", "adamw"),
    "recipe.schedule": ("step", "cosine"),
    "recipe.interpolation": ("bilinear", "bicubic"),
    "precision": ("float32",),
    "device": ("auto", "cpu", "cuda", "mps"),
}
POSITIVE = ("recipe.epochs", "recipe.batch_size", "resolution", "data.num_classes")
FRACTIONS = ("data.holdout", "recipe.random_erasing", "recipe.label_smoothing", "recipe.momentum")
NOT_NEGATIVE = ("recipe.lr", "recipe.min_lr", "recipe.weight_decay", "recipe.mixup", "recipe.cutmix", "workers", "seed")


def _check(run: Run) -> None:
    """Refuse what would fail, or mean nothing, once training has begun."""

    def value(key: str) -> Any:
        group, _, name = key.rpartition(".")
        return getattr(getattr(run, group) if group else run, name)

    for key, choices in CHOICES.items():
        if value(key) not in choices:
            hint = did_you_mean(value(key), choices)
            raise SettingsError(f"{key} must be {' or '.join(choices)}, not {value(key)!r}{hint}")
    for key in POSITIVE:
        if value(key) < 1:
            raise SettingsError(f"{key} must be at least 1, not {value(key)}")
    for key in FRACTIONS:
        if not 0 <= value(key) < 1:
            raise SettingsError(f"{key} must be in [0, 1), not {value(key)}")
    for key in NOT_NEGATIVE:
        if not (math.isfinite(value(key)) and value(key) >= 0):
            raise SettingsError(f"{key} must be a finite number, 0 or more, not {value(key)}")
    if not 0 < run.data.subset <= 1:
        raise SettingsError(f"data.subset is the part of the training images to use, in (0, 1], not {run.data.subset}")
    if run.seed >= 2**63:
        raise SettingsError(f"seed must be less than 2**63, not {run.seed}")
    if run.threads is not None and run.threads < 1:
        raise SettingsError(f"threads must be at least 1, not {run.threads}")
    for key, texts in {"recipe.warmup": [run.recipe.warmup], "recipe.drops": run.recipe.drops}.items():
        for text in texts:
            fraction_of_run(text, key)
    if run.recipe.mixup and run.recipe.batch_size % 2:
        raise SettingsError(
            f"recipe.mixup pairs images, so recipe.batch_size must be even, not {run.recipe.batch_size}"
        )
    if run.model != "design":
        check_timm_name(run.model)


def fraction_of_run(text: str, key: str = "this") -> Fraction:
    """ "20/300", 20 of 300 epochs, as a fraction of the run in [0, 1]."""
    try:
        fraction = Fraction(text)
    except (ValueError, ZeroDivisionError):
        fraction = Fraction(-1)
    if not 0 <= fraction <= 1:
        raise SettingsError(f"{key} must be a fraction of the run like 20/300, not {text!r}")
    return fraction


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
