"""Composes `conf/` and user-defined folders without Hydra and torch: designs, steps, regimes, recipes and roads.

On the command line Hydra composes these files; here OmegaConf does, so that a road, a report or `--help` needs neither
Hydra nor torch. A test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from roadmap.common.bounds import did_you_mean
from roadmap.common.words import listed
from roadmap.designs import RENAMED, Design, DesignError
from roadmap.roads import Road, Rung, Steps

CONF = Path(__file__).resolve().parent.parent / "conf"
GLOBAL = "# @package _global_"
"""The first line of a file whose settings are placed at the root of the configuration."""


@dataclass(frozen=True)
class Conf:
    """The files that a configuration is composed of. Where several folders have a file of the same name, the first
    folder's is used, as in Hydra."""

    folders: tuple[Path, ...] = (CONF,)

    def options(self, group: str) -> list[str]:
        """The names in a group."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def load(self, group: str, name: str) -> DictConfig:
        """One file.

        Raises:
            ValueError: if there is none.
        """
        return _read(self.path(group, name))

    def path(self, group: str, name: str) -> Path:
        """The path of a file.

        Raises:
            ValueError: if there is none.
        """
        paths = [path for folder in self.folders if (path := folder / group / f"{name}.yaml").is_file()]
        if not paths or "/" in name:
            known = self.options(group)
            raise ValueError(f"unknown {group} {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
        return paths[0]

    def road(self, name: str = "convnext", regime: str | None = None) -> Road:
        """A road, with the numbers published for a regime; its rungs have no designs.

        Raises:
            ValueError: if there is no such road or regime, or its file is wrong. The message is one line.
        """
        return _road(self, name, regime)

    def ladder(self, regime: str, road: str = "convnext", epochs: int | None = None) -> tuple[Rung, ...]:
        """The rungs of a road with their designs in a regime, as it trains them for so many `epochs`; by default, its
        own number.

        Raises:
            ValueError: if there is no such road or regime.
        """
        return _ladder(self, regime, road, epochs)

    def compose(
        self,
        regime: str,
        steps: Iterable[str],
        road: str = "convnext",
        recipe: str | None = None,
        design: str | None = None,
    ) -> DictConfig:
        """The configuration with these steps applied: `design`, `recipe` and all that they refer to.

        Args:
            recipe: by default that of the steps.
            design: the name of a design, instead of the steps' design.

        Raises:
            ValueError: if there is no such name, or if steps contradict each other.
        """
        files = [self.whole("step", name) for name in self.in_order(steps, road)]
        base = _read(CONF / "config.yaml")
        chosen: dict[Any, Any] = {
            key: value for entry in base.defaults if isinstance(entry, DictConfig) for key, value in entry.items()
        }
        for file in files:
            chosen |= _overrides(file)
        recipes = self.with_bases("recipe", recipe or chosen["recipe"])
        bases = self.with_bases("design", design) if design else []
        named = [OmegaConf.create({"design": base}) for base in bases]
        return cast(DictConfig, OmegaConf.merge(base, *recipes, self.whole("regime", regime), *files, *named))

    def in_order(self, steps: Iterable[str], road: str = "convnext") -> Steps:
        """Steps in the order in which they are composed: the road's, then those that are not on it, by name.

        Raises:
            ValueError: if there is no such step, or if two of them contradict each other.
        """
        return _in_order(self, self.road(road).in_order(steps), road)

    def with_bases(self, group: str, name: str, *above: str) -> list[DictConfig]:
        """The files of its group that a file is based on by its `defaults`, then the file itself.

        Raises:
            ValueError: if there is no such file, or one is based on itself.
        """
        if name in above:
            raise ValueError(f"{group} {name} is based on itself")
        config = self.load(group, name)
        bases = [item for item in config.get("defaults", ()) if isinstance(item, str) and item != "_self_"]
        return [file for base in bases for file in self.with_bases(group, base, name, *above)] + [config]

    def whole(self, group: str, name: str) -> DictConfig:
        """A file merged with those that it is based on; its choices from other groups stay in `defaults`."""
        return _whole(self, group, name)


OURS = Conf()


def design(name: str) -> Design:
    """A named design of `conf/design/`, such as resnet50 or convnext_tiny.

    Stochastic depth is 0: it belongs to the recipe, not to the network.

    Raises:
        ValueError: if there is no such design.
    """
    return to_design(cast(DictConfig, OmegaConf.merge(*OURS.with_bases("design", name))))


def ladder(regime: str = "resnet50", road: str = "convnext") -> tuple[Rung, ...]:
    """The rungs of a road of this package, in order, with their designs in a regime.

    Raises:
        ValueError: if there is no such regime or road.
    """
    return OURS.ladder(regime, road)


def road(name: str = "convnext", regime: str | None = None) -> Road:
    """A road of this package, with the numbers published for a regime, if one is given.

    Raises:
        ValueError: if there is no such road or regime.
    """
    return OURS.road(name, regime)


def regimes() -> list[str]:
    return OURS.options("regime")


def to_design(config: Mapping | DictConfig) -> Design:
    """Converts a design as Hydra or YAML has it to the frozen, validated value.

    Raises:
        DesignError: if there is no such switch, or a value is impossible.
    """
    values: Any = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
    values.pop("defaults", None)  # which files a file of conf/design/ is based on
    known = [field.name for field in fields(Design)]
    if unknown := [name for name in values if name not in known]:
        renamed = RENAMED.get(unknown[0])
        hint = f"; it is called {renamed!r} now" if renamed else did_you_mean(unknown[0], known)
        raise DesignError(f"{unknown[0]}: there is no such switch{hint}")
    return Design(**values)


@cache
def _read(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    except OSError as error:
        if error.errno:
            raise
        config = None  # OmegaConf's error for a file that is a number or a flag
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} is not a mapping of settings")
    return config


MOST_EXTENDED = 100
"""How long a chain of roads that extend each other may be."""


@cache
def _whole(conf: Conf, group: str, name: str) -> DictConfig:
    files = conf.with_bases(group, name)
    chosen = [item for file in files for item in file.get("defaults", ()) if isinstance(item, DictConfig)]
    return cast(DictConfig, OmegaConf.merge(*files, {"defaults": chosen}))


@cache
def _in_order(conf: Conf, steps: Steps, road: str) -> Steps:
    files = {step: conf.whole("step", step) for step in steps}
    for step, file in files.items():
        _check_step(conf, step, file)
    _refuse_contradictions(files, conf.road(road))
    return steps


@cache
def _road(conf: Conf, name: str, regime: str | None) -> Road:
    value = _extended(conf, name)
    published = conf.whole("regime", regime).regime.get("published", regime) if regime else None
    try:
        for rung in value["rungs"]:
            titles = rung.pop("titles", None) or {}
            rung["title"] = titles.get(regime) or rung.get("title")
            rung["published"] = rung["published"].get(published)
        value["references"] = value["references"].get(published)
        is_known = any(rung["published"] for rung in value["rungs"])
        road = Road.from_json(value | {"name": name, "published": published if is_known else None})
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"road {name}: {error}") from error
    for step in road.steps:
        conf.load("step", step)
    return road


def _extended(conf: Conf, name: str, *extending: str) -> dict[str, Any]:
    """The content of a road's file, appended to that of the road that it extends."""
    if name in extending or len(extending) > MOST_EXTENDED:
        raise ValueError(f"road {name} extends itself" if name in extending else "too many roads extend each other")
    content: Any = OmegaConf.to_container(conf.load("road", name), resolve=True)
    value: dict[str, Any] = content if isinstance(content, dict) else {}
    rungs = value.setdefault("rungs", [])
    if not isinstance(rungs, list) or not all(isinstance(rung, dict) for rung in rungs):
        raise ValueError(f"road {name}: `rungs` must be a list with one entry per rung, like `- step: gelu`")
    for key, parent in [("sections", value), ("references", value), *(("published", rung) for rung in rungs)]:
        if not isinstance(parent.setdefault(key, {}), dict):
            raise ValueError(
                f"road {name}: `{key}` must be a mapping, as in conf/road/convnext.yaml, not {parent[key]!r}"
            )
    if (base := value.pop("extends", None)) is None:
        return value
    extended = _extended(conf, base, name, *extending)
    extended.pop("title", None)  # another road, another title
    references = {
        regime: [*extended["references"].get(regime, []), *(networks or [])]
        for regime, networks in value["references"].items()
    }
    return extended | value | {
        "rungs": [*extended["rungs"], *rungs],
        "sections": extended["sections"] | value["sections"],
        "references": extended["references"] | references,
    }  # fmt: skip


@cache
def _ladder(conf: Conf, regime: str, name: str, epochs: int | None) -> tuple[Rung, ...]:
    rungs = []
    for rung in conf.road(name, regime).rungs:
        composed = conf.compose(regime, rung.steps, name)
        if epochs:  # which the strength of the regularization follows
            OmegaConf.update(composed, "recipe.epochs", epochs)
        rungs.append(replace(rung, design=to_design(composed.design), recipe=composed.recipe.name))
    return tuple(rungs)


def _check_step(conf: Conf, name: str, file: DictConfig) -> None:
    """Refuse a step that sets anything but what is trained, such as the road or the number of runs."""
    path = conf.path("step", name)
    if GLOBAL not in path.read_text("utf-8", "replace"):
        raise ValueError(f"{path}: its first line must be '{GLOBAL}'")
    if unknown := [key for key in file if key not in STEP_SETTINGS]:
        raise ValueError(f"step {name} may not set {unknown[0]!r}, only {', '.join(STEP_SETTINGS)}")
    if unknown := [group for group in _overrides(file) if group not in ("recipe", "data")]:
        raise ValueError(f"step {name} may not choose a {unknown[0]}, only a recipe or data")
    layers = OmegaConf.select(file, "design.layers")
    values = layers.values() if isinstance(layers, DictConfig) else [layers]
    if not all(isinstance(layer, DictConfig | None) for layer in values):
        raise ValueError(f"step {name}: design.layers must be like {{NAME: {{at: hidden, _target_: package.Class}}}}")


STEP_SETTINGS = (
    *("defaults", "design", "widths", "kernel_sizes", "recipe", "data", "resolution", "precision"),
    *("micro_batch_size", "sync_batch_norm"),
)
SYNONYMS = {"kernel_sizes": "design.kernel_size", "widths": "design.width"}
"""Settings that steps can make in two ways."""


def _refuse_contradictions(files: Mapping[str, DictConfig], road: Road) -> None:
    """Refuse two steps that put a layer at the same position; or two that are not on the road and give a setting
    different values, since neither has precedence. On a road the later one has."""
    layers: dict[str, str] = {}
    for step, file in files.items():
        for name, layer in (OmegaConf.select(file, "design.layers") or {}).items():
            at = [f"a layer at {layer.get('at')}"] if layer else []
            for what in {*at, f"a layer called {name}"}:
                if what in layers:
                    raise ValueError(f"steps {layers[what]} and {step} contradict each other: both put {what}")
                layers[what] = step
    off_road = {step: _settings(file) for step, file in files.items() if step not in road.steps}
    for (first, settings), (second, more) in combinations(off_road.items(), 2):
        different = [key for key in settings if key in more and settings[key] != more[key]]
        for group, key in SYNONYMS.items():
            has_group = [any(name.startswith(f"{group}.") for name in step) for step in (settings, more)]
            different += [key] if (key in settings and has_group[1]) or (key in more and has_group[0]) else []
        if different:
            raise ValueError(
                f"steps {first} and {second} contradict each other: both set {different[0]}; take one of them"
            )


def _settings(step: DictConfig) -> dict[str, Any]:
    """{group: option} and {dotted key: value} of what a step chooses and sets, as written."""
    values: Any = OmegaConf.to_container(step, resolve=False)
    return _overrides(step) | flat({key: value for key, value in values.items() if key != "defaults"})


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested settings."""
    flattened: dict[str, Any] = {}
    for key, value in values.items():
        flattened |= flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return flattened


def _overrides(config: DictConfig) -> dict[str, Any]:
    """{group: option} of a file's `defaults` entries of the form `override /group: option`."""
    entries = [item for item in config.get("defaults", ()) if isinstance(item, DictConfig)]
    return {
        str(key).removeprefix("override /"): value
        for entry in entries
        for key, value in entry.items()
        if value is not None
    }


# Resolvers: what files of conf/ write as `${NAME:...}`.


def _only(sizes: DictConfig, default: int) -> int:
    if len(sizes) > 1:
        raise ValueError(f"steps {listed(sizes)} contradict each other: a network has one kernel size")
    return next(iter(sizes.values()), default)


SIZES = ("tiny", "small", "base", "large", "xlarge")


def _by_size(values: DictConfig, default: float, *, _root_: DictConfig) -> float:
    """The value for the size of ConvNeXt with the design's depths and width; `default` if none is listed."""
    shape = _root_.design.depths, _root_.design.width
    for size in filter(values.__contains__, SIZES):
        named = OURS.load("design", f"convnext_{size}")
        if shape == (named.depths, named.width):
            return values[size]
    return default


def _strength(root: DictConfig) -> float:
    """How much of its recipe's regularization a run gets: all of it in the paper's regimes. A regime for small budgets
    has `scale_regularization`: with fewer epochs than the recipe's `full_epochs`, it gets a part (docs/proxies.md).
    """
    is_scaled = root.regime.get("scale_regularization") and root.full_epochs
    return min(1.0, root.recipe.epochs / root.full_epochs) if is_scaled else 1.0


def _scaled(value: float, *, _root_: DictConfig) -> float:
    """A published probability or weight, times the strength of the regularization."""
    return _rounded(value * _strength(_root_))


def _scaled_policy(policy: str, *, _root_: DictConfig) -> str:
    """RandAugment's policy: each of its operations is applied with half the strength as its probability, timm's
    default being 0.5."""
    strength = _strength(_root_)
    return policy if strength == 1 else f"{policy}-p{_rounded(strength / 2)}"


def _scaled_start(value: float, *, _root_: DictConfig) -> float:
    """Layer scale's start: from 1, a plain residual branch, to the published value, on a logarithmic scale."""
    return _rounded(value ** _strength(_root_))


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")


SETS: dict[str, Any] = {
    "rungs": lambda road: road.names,
    "section_ends": lambda road: road.section_ends(),
    "from_base": lambda road: road.names[road.names.index(road.base) :],
    "leave_one_out": lambda road: road.leave_one_out(),
    "add_one_in": lambda road: road.add_one_in(),
    "sections": lambda road: road.unions(road.groups().values()),
    "orderings": lambda road, count, seed=0: road.prefixes(road.orderings(count, seed)),
}
"""What a study can train on a road: names of rungs, or sets of steps."""


def _sweep(name: str, *arguments: int, _root_: DictConfig) -> str:
    """`a,b` or `[a,b],[a,c]`: what Hydra's sweeper reads as a series of values."""
    if name not in SETS:
        raise ValueError(f"a road has no {name!r}{did_you_mean(name, SETS)} (known: {', '.join(SETS)})")
    road = conf_of(_root_.hydra.runtime.config_sources).road(_root_.road.name)
    values = SETS[name](road, *arguments)
    return ", ".join(value if isinstance(value, str) else f"[{','.join(value)}]" for value in values)


def conf_of(sources: Sequence[Any]) -> Conf:
    """The folders that Hydra composes from, as its `runtime.config_sources` lists them."""
    own = [Path(source["path"]) for source in sources if source["schema"] == "file"]
    return Conf((CONF, *(path for path in own if path != CONF)))


OmegaConf.register_new_resolver("by_size", _by_size, replace=True)
OmegaConf.register_new_resolver("widest", lambda widths: max(widths.values()), replace=True)
OmegaConf.register_new_resolver("only", _only, replace=True)
OmegaConf.register_new_resolver("road", _sweep, replace=True)
OmegaConf.register_new_resolver("scaled", _scaled, replace=True)
OmegaConf.register_new_resolver("scaled_policy", _scaled_policy, replace=True)
OmegaConf.register_new_resolver("scaled_start", _scaled_start, replace=True)
