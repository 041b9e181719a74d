"""`conf/`, and folders of the user's own, composed without Hydra and torch: designs, steps, regimes, recipes and roads.

On the command line Hydra composes these files; here OmegaConf does, so that a road, a report or `--help` needs neither
Hydra nor torch. A test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from roadmap.common.bounds import did_you_mean
from roadmap.common.words import listed
from roadmap.designs import RENAMED, Design, DesignError
from roadmap.roads import Road, Rung, Steps

CONF = Path(__file__).resolve().parent.parent / "conf"
GLOBAL = "# @package _global_"
"""The first line of a file that sets what stands elsewhere in a configuration."""


@dataclass(frozen=True)
class Conf:
    """The files that a configuration is composed of: of several folders with a file of one name the first has it, as
    in Hydra."""

    folders: tuple[Path, ...] = (CONF,)

    def options(self, group: str) -> list[str]:
        """The names that a group has."""
        return sorted({path.stem for folder in self.folders for path in (folder / group).glob("*.yaml")})

    def load(self, group: str, name: str) -> DictConfig:
        """One file.

        Raises:
            ValueError: if there is none.
        """
        found = [path for folder in self.folders if (path := folder / group / f"{name}.yaml").is_file()]
        if not found or "/" in name:
            known = self.options(group)
            raise ValueError(f"unknown {group} {name!r}{did_you_mean(name, known)} (known: {', '.join(known)})")
        return _read(found[0])

    def road(self, name: str = "convnext", regime: str | None = None) -> Road:
        """A road, with what was published for a regime; its rungs are without designs.

        Raises:
            ValueError: if there is no such road or regime, or its file is wrong. The message is one line.
        """
        return _road(self, name, regime)

    def ladder(self, regime: str, road: str = "convnext") -> tuple[Rung, ...]:
        """The rungs of a road with the designs that they make in a regime.

        Raises:
            ValueError: if there is no such road or regime.
        """
        return _ladder(self, regime, road)

    def compose(
        self,
        regime: str,
        steps: Iterable[str],
        road: str = "convnext",
        recipe: str | None = None,
        design: str | None = None,
    ) -> DictConfig:
        """The configuration with these steps on: `design`, `recipe` and what they refer to.

        The recipe is the steps' unless it is given; `design` is a named one, instead of the steps'.

        Raises:
            ValueError: if there is no such name, or if steps contradict each other.
        """
        steps = [self.whole("step", name) for name in self.in_order(steps, road)]
        base = _read(CONF / "config.yaml")
        chosen = {
            key: value for entry in base.defaults if isinstance(entry, DictConfig) for key, value in entry.items()
        }
        for step in steps:
            chosen |= _overrides(step)
        recipes = self.with_bases("recipe", recipe or chosen["recipe"])
        named = [OmegaConf.create({"design": file}) for file in self.with_bases("design", design)] if design else []
        return OmegaConf.merge(base, *recipes, self.whole("regime", regime), *steps, *named)

    def in_order(self, steps: Iterable[str], road: str = "convnext") -> Steps:
        """Steps in the order in which they are composed: the road's, then those that are not on it, by name.

        Raises:
            ValueError: if there is no such step, or if two of them contradict each other.
        """
        return _in_order(self, self.road(road).in_order(steps), road)

    def with_bases(self, group: str, name: str, *above: str) -> list[DictConfig]:
        """A file after the files of its group that its `defaults` name.

        Raises:
            ValueError: if there is no such file, or one is based on itself.
        """
        if name in above:
            raise ValueError(f"{group} {name} is based on itself")
        config = self.load(group, name)
        bases = [item for item in config.get("defaults", ()) if isinstance(item, str) and item != "_self_"]
        return [file for base in bases for file in self.with_bases(group, base, name, *above)] + [config]

    def whole(self, group: str, name: str) -> DictConfig:
        """A file and the files that it is based on as one; what it chooses from other groups stays in `defaults`."""
        return _whole(self, group, name)


OURS = Conf()


def design(name: str) -> Design:
    """A named design of `conf/design/`: resnet50, resnet101, ..., convnext_tiny, ..., convnext_xlarge.

    Stochastic depth is 0: it belongs to the recipe, not to the network.

    Raises:
        ValueError: if there is no such design.
    """
    return to_design(OmegaConf.merge(*OURS.with_bases("design", name)))


def ladder(regime: str = "resnet50", road: str = "convnext") -> tuple[Rung, ...]:
    """The rungs of a road of ours in its order, with the designs that they make in a regime.

    Raises:
        ValueError: if there is no such regime or road.
    """
    return OURS.ladder(regime, road)


def road(name: str = "convnext", regime: str | None = None) -> Road:
    """A road of ours, with what was published for a regime, if one is given.

    Raises:
        ValueError: if there is no such road or regime.
    """
    return OURS.road(name, regime)


def regimes() -> list[str]:
    return OURS.options("regime")


def to_design(config: Mapping | DictConfig) -> Design:
    """The one conversion from Hydra's edge, where every field can be overridden, to the frozen, validated value.

    Raises:
        DesignError: if there is no such switch, or a value is impossible.
    """
    values = OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else dict(config)
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
        config = None  # OmegaConf's word for a number or a flag
    if not isinstance(config, DictConfig):
        raise ValueError(f"{path} is no mapping of settings")
    return config


LONGEST = 100
"""Roads of which each extends the next."""


@cache
def _whole(conf: Conf, group: str, name: str) -> DictConfig:
    files = conf.with_bases(group, name)
    chosen = [item for file in files for item in file.get("defaults", ()) if isinstance(item, DictConfig)]
    return OmegaConf.merge(*files, {"defaults": chosen})


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
    """What a road's file says, after what the road says that it extends."""
    if name in extending or len(extending) > LONGEST:
        raise ValueError(f"road {name} extends itself" if name in extending else "too many roads extend each other")
    value = OmegaConf.to_container(conf.load("road", name), resolve=True)
    value = value if isinstance(value, dict) else {}
    rungs = value.setdefault("rungs", [])
    if not isinstance(rungs, list) or not all(isinstance(rung, dict) for rung in rungs):
        raise ValueError(f"road {name}: `rungs` is a list, an entry for each rung, like `- step: gelu`")
    for key, of in [("sections", value), ("references", value), *(("published", rung) for rung in rungs)]:
        if not isinstance(of.setdefault(key, {}), dict):
            raise ValueError(f"road {name}: `{key}` is a mapping, like in conf/road/convnext.yaml, not {of[key]!r}")
    if (base := value.pop("extends", None)) is None:
        return value
    before = _extended(conf, base, name, *extending)
    before.pop("title", None)  # another road, another title
    more = {
        regime: [*before["references"].get(regime, []), *(listed or [])]
        for regime, listed in value["references"].items()
    }
    return before | value | {
        "rungs": [*before["rungs"], *rungs],
        "sections": before["sections"] | value["sections"],
        "references": before["references"] | more,
    }  # fmt: skip


@cache
def _ladder(conf: Conf, regime: str, name: str) -> tuple[Rung, ...]:
    rungs = []
    for rung in conf.road(name, regime).rungs:
        composed = conf.compose(regime, rung.steps, name)
        rungs.append(replace(rung, design=to_design(composed.design), recipe=composed.recipe.name))
    return tuple(rungs)


def _check_step(conf: Conf, name: str, file: DictConfig) -> None:
    """Refuse what no step can be: one sets what is trained, not on what road, where or how often."""
    path = next(path for folder in conf.folders if (path := folder / "step" / f"{name}.yaml").is_file())
    if GLOBAL not in path.read_text("utf-8", "replace"):
        raise ValueError(f"{path}: its first line must be '{GLOBAL}'")
    if unknown := [key for key in file if key not in OF_A_STEP]:
        raise ValueError(f"step {name} may not set {unknown[0]!r}, only {', '.join(OF_A_STEP)}")
    if unknown := [group for group in _overrides(file) if group not in ("recipe", "data")]:
        raise ValueError(f"step {name} may not choose a {unknown[0]}, only a recipe or data")
    layers = OmegaConf.select(file, "design.layers")
    listed = layers.values() if isinstance(layers, DictConfig) else [layers]
    if not all(isinstance(layer, DictConfig | None) for layer in listed):
        raise ValueError(f"step {name}: design.layers is like {{NAME: {{at: hidden, _target_: package.Class}}}}")


OF_A_STEP = ("defaults", "design", "widths", "kernel_sizes", "recipe", "data", "resolution", "precision")
OF_A_STEP += ("micro_batch_size", "sync_batch_norm")
SAME = {"kernel_sizes": "design.kernel_size", "widths": "design.width"}
"""What steps set in two ways."""


def _refuse_contradictions(files: Mapping[str, DictConfig], road: Road) -> None:
    """Refuse two steps that put a layer at one place; or, of those that are on no road, two that give a setting
    different values: which should win? On a road it is the later."""
    layers: dict[str, str] = {}
    for step, file in files.items():
        for name, layer in (OmegaConf.select(file, "design.layers") or {}).items():
            at = [f"a layer at {layer.get('at')}"] if layer else []
            for what in {*at, f"a layer called {name}"}:
                if what in layers:
                    raise ValueError(f"steps {layers[what]} and {step} contradict each other: both put {what}")
                layers[what] = step
    for (one, first), (other, second) in combinations(files.items(), 2):
        if one in road.steps or other in road.steps:
            continue
        first, second = _settings(first), _settings(second)
        chosen, others = _overrides(files[one]), _overrides(files[other])
        different = [group for group in chosen if others.get(group, chosen[group]) != chosen[group]]
        different += [key for key in first if key in second and first[key] != second[key]]
        for group, key in SAME.items():
            listed = [any(name.startswith(f"{group}.") for name in step) for step in (first, second)]
            different += [key] if (key in first and listed[1]) or (key in second and listed[0]) else []
        if different:
            raise ValueError(
                f"steps {one} and {other} contradict each other: both set {different[0]}; take one of them"
            )


def _settings(step: DictConfig) -> dict[str, Any]:
    """{dotted key: value} of what a step sets, as written."""
    values = OmegaConf.to_container(step, resolve=False)
    return flat({key: value for key, value in values.items() if key != "defaults"})


def flat(values: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """{dotted key: value} of nested settings."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{path}{key}.") if isinstance(value, Mapping) else {f"{path}{key}": value}
    return found


def _overrides(config: DictConfig) -> dict[str, str | list[str]]:
    """{group: option} of a file's `defaults` entries of the form `override /group: option`."""
    entries = [item for item in config.get("defaults", ()) if isinstance(item, DictConfig)]
    return {
        str(key).removeprefix("override /"): value
        for entry in entries
        for key, value in entry.items()
        if value is not None
    }


# What files of conf/ ask for while they are composed: `${NAME:...}`.


def _only(sizes: DictConfig, default: int) -> int:
    if len(sizes) > 1:
        raise ValueError(f"steps {listed(sizes)} contradict each other: a network has one kernel size")
    return next(iter(sizes.values()), default)


SIZES = ("tiny", "small", "base", "large", "xlarge")


def _by_size(values: DictConfig, otherwise: float, *, _root_: DictConfig) -> float:
    """The value for the size of ConvNeXt whose depths and width the design has; `otherwise` if none is listed."""
    shape = _root_.design.depths, _root_.design.width
    for size in filter(values.__contains__, SIZES):
        named = OURS.load("design", f"convnext_{size}")
        if shape == (named.depths, named.width):
            return values[size]
    return otherwise


SETS = {
    "rungs": lambda road: road.names,
    "from_base": lambda road: road.names[road.names.index(road.base) :],
    "leave_one_out": lambda road: road.leave_one_out(),
    "add_one_in": lambda road: road.add_one_in(),
    "sections": lambda road: road.unions(road.groups().values()),
    "orderings": lambda road, count, seed=0: road.prefixes(road.orderings(count, seed)),
}
"""What a study may train of a road: names of rungs, or sets of steps."""


def _sweep(name: str, *arguments: int, _root_: DictConfig) -> str:
    """`a,b` or `[a,b],[a,c]`: what Hydra's sweeper reads as one value after the other."""
    if name not in SETS:
        raise ValueError(f"a road has no {name!r}{did_you_mean(name, SETS)} (known: {', '.join(SETS)})")
    found = SETS[name](conf_of(_root_.hydra.runtime.config_sources).road(_root_.road.name), *arguments)
    return ", ".join(one if isinstance(one, str) else f"[{','.join(one)}]" for one in found)


def conf_of(sources: Sequence[Mapping[str, str]]) -> Conf:
    """The folders that Hydra composes from, as its `runtime.config_sources` lists them."""
    own = [Path(source["path"]) for source in sources if source["schema"] == "file"]
    return Conf((CONF, *(path for path in own if path != CONF)))


OmegaConf.register_new_resolver("by_size", _by_size, replace=True)
OmegaConf.register_new_resolver("widest", lambda widths: max(widths.values()), replace=True)
OmegaConf.register_new_resolver("only", _only, replace=True)
OmegaConf.register_new_resolver("road", _sweep, replace=True)
