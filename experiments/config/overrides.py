"""The overrides of a command line, before Hydra composes: those that no group takes are refused, and `road=`, `rung=`,
`step=` and `design=` become one list of steps; and those of the jobs that Hydra's sweeper makes of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cache
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Glob, Override, QuotedString
from hydra.errors import OverrideParseException

from experiments.errors import SettingsError
from roadmap.common.words import listed
from roadmap.conf import Conf

Overrides = Sequence[str]
"""Of one job, as Hydra's sweeper makes them."""
NETWORK = ("road", "rung", "step", "design")
"""Keys that choose a network; what they come to is in the settings `road.name`, `road.steps` and `road.design`."""
REPLACED = ("road", "rung", "step", "road.name")
DERIVED = {"road.steps": "rung= and step=", "road.design": "design="}
NAME_TYPES = (str, QuotedString, Glob)
"""What Hydra's parser makes of a name, or of several."""


def check_groups(words: Sequence[str], conf: Conf) -> None:
    """Refuse to choose from a group by anything but names: Hydra would fail with a traceback. `words` are those of the
    command line.

    Raises:
        SettingsError: in one line.
    """
    groups = {"rung", *(path.name for folder in conf.folders for path in folder.iterdir())}
    for word in words:
        key = _key(word)
        if key is None or key.split("/")[0] not in groups or "." in key:
            continue
        try:
            override = _parsed(word)
        except OverrideParseException:
            return  # Hydra refuses it, and says why
        value = override.value()
        if key == "study" and override.is_sweep_override():
            raise SettingsError(f"{word}: study takes one name; start one after the other")
        for choice in value.list if isinstance(value, ChoiceSweep) else [value]:
            if not all(isinstance(name, NAME_TYPES) for name in (choice if isinstance(choice, list) else [choice])):
                names = conf.road().names if key == "rung" else conf.options(key) if key != "hydra" else ()
                known = f" ({', '.join(names)})" if names else ""
                raise SettingsError(f"{word}: {key} takes a name{known}; for none, leave it out")
            if isinstance(choice, list) and key != "step":
                raise SettingsError(f"{word}: {key} takes one name; with -m, {key}=A,B trains a run of each")


def with_steps(words: Sequence[str], conf: Conf, road: str = "convnext") -> list[str]:
    """The words of one run with a single list of steps in place of a road, a rung and steps: `step=[...]`, which Hydra
    composes, and `road.name`, `road.steps` and `road.design`, which the configuration keeps. Other words stay as they
    are. `road` is the default.

    Raises:
        SettingsError: if there is no such road, rung or step; if a rung is named twice, or steps contradict each other.
    """
    chosen = _network_overrides(words)
    if not chosen:
        return [*words]
    for override in chosen.values():
        if override.is_sweep_override():
            raise SettingsError(
                f"{override.input_line} asks for several runs; add -m, or take one value (a list is [a,b])"
            )
    road = _name(chosen, "road") or road
    rung, steps, design = _name(chosen, "rung"), _names(chosen, "step"), _name(chosen, "design")
    if design and (rung is not None or steps):
        raise SettingsError(f"design={design} is a whole network, which takes no rung or step; leave out one of them")
    try:
        ordered = conf.in_order([*steps, *(conf.road(road)[rung].steps if rung is not None else ())], road)
    except ValueError as error:
        raise SettingsError(str(error)) from error
    step_list = f"[{','.join(ordered)}]"
    new = [f"road.name={road}", f"road.steps={step_list}", f"step={step_list}"]
    new += [f"road.design={design}"] if design else []
    first = next(index for index, word in enumerate(words) if _key(word) in (*REPLACED, "design"))
    rest = [word for word in words[first:] if _key(word) not in REPLACED]
    return [*words[:first], *new, *rest]  # argparse takes flags before and after the overrides, not between them


def for_sweep(words: Sequence[str], conf: Conf, road: str = "convnext") -> list[str]:
    """The words of a multirun for Hydra's sweeper: the road as its setting, and the rungs that a glob matches.
    The sweeper applies `with_steps` to the words of each run.

    Raises:
        SettingsError: if there is more than one road, or a glob matches no rung.
    """
    chosen = _network_overrides(words, multirun=True)
    replaced = {}
    if "road" in chosen:
        if chosen["road"].is_sweep_override():
            raise SettingsError(f"{chosen['road'].input_line}: a study is of one road; start one for each")
        road = _name(chosen, "road") or road
        replaced["road"] = f"road.name={road}"
    if "rung" in chosen and isinstance(glob := chosen["rung"].value(), Glob):
        if not (names := glob.filter(list(conf.road(road).names))):
            raise SettingsError(f"{chosen['rung'].input_line} matches no rung of the road {road}")
        replaced["rung"] = f"rung={','.join(names)}"
    return [replaced.get(_key(word) or "", word) for word in words]


def search_path(words: Sequence[str]) -> list[Path]:
    """The folders of `hydra.searchpath=[file://...]`."""
    values = [_parsed(word).value() for word in words if _key(word) == "hydra.searchpath"]
    paths = values[-1] if values else []
    if not isinstance(paths, list):
        raise SettingsError(f"hydra.searchpath takes a list, like [file:///home/me/my], not {paths}")
    return [Path(str(path).removeprefix("file://")) for path in paths if "pkg://" not in str(path)]


def without_seed(job: Overrides) -> tuple[str, ...]:
    """What the jobs of one network share."""
    return tuple(word for word in job if _key(word) != "seed")


def refuse_set(jobs: Iterable[Overrides], mode: str, keys: Collection[str]) -> None:
    """Refuse jobs that set what a mode of the study sets.

    Raises:
        SettingsError: in one line.
    """
    named = {key for job in jobs for word in job if (key := _key(word)) in keys}
    if named:
        raise SettingsError(
            f"{mode} sets {listed(sorted(map(str, named)))}; leave {'it' if len(named) == 1 else 'them'} out"
        )


def _network_overrides(words: Sequence[str], *, multirun: bool = False) -> dict[str, Override]:
    """{key: override} of those that choose a network; in a multirun the last of each key, as in Hydra's sweeper."""
    chosen: dict[str, Override] = {}
    for word in words:
        if (key := _key(word)) in DERIVED:
            raise SettingsError(f"{key} follows from {DERIVED[key]}; set that instead")
        key = "road" if key == "road.name" else key
        if key not in NETWORK:
            continue
        try:
            override = _parsed(word)
        except OverrideParseException:
            continue  # Hydra refuses it, and says why
        if key in chosen and chosen[key].value() != override.value() and not multirun:
            raise SettingsError(f"{key} is chosen twice; name it once")
        chosen[key] = override
    return chosen


def _key(word: str) -> str | None:
    """The part of an override before its `=`; None for a flag."""
    key, equals, _ = word.lstrip("+").partition("=")
    return key if equals and not word.startswith("-") else None


@cache
def _parsed(word: str) -> Override:
    [override] = OverridesParser.create().parse_overrides([word])
    return override


def _names(chosen: dict[str, Override], key: str) -> list[str]:
    value = chosen[key].value() if key in chosen else None
    return [str(name) for name in (value if isinstance(value, list) else [value]) if name is not None]


def _name(chosen: dict[str, Override], key: str) -> str | None:
    return next(iter(_names(chosen, key)), None)
