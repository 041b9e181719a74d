"""Which switches a study crossed, found from its runs: factors and their levels."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations, product
from typing import NamedTuple

import pandas as pd

from analysis.statistics.comparison import Comparison, Steps
from analysis.statistics.context import Context, canonical
from analysis.statistics.shapley import has_sections, measured_unions
from roadmap.common.words import shortened
from roadmap.conf import flat
from roadmap.designs import RENAMED, Design

Network = Steps | str
"""The key of a network in `Comparison.scores`."""
ORIGINAL = {f"design.{key}": canonical(value) for key, value in flat(dataclasses.asdict(Design())).items()}
"""ResNet's switches, as JSON; every design that says nothing of a switch has it."""
FEWEST_LEVELS = 3
"""The fewest levels at which a single switch is a factor: two are one difference."""
NULL = "null"
TARGET = "._target_"
"""The end of the setting that has a layer's class."""
NAMED = 3
"""How many settings that change together are named."""


class Factor(NamedTuple):
    """A switch, or several settings that change together, with the levels that were requested."""

    name: str
    """Of the steps that set it where its levels are with and without these; else of its switches."""
    levels: tuple[str, ...]
    """Numbers in ascending order; otherwise the reference comes first."""
    reference: str
    """The level that the others are compared with: ResNet's, or without the step; if there is none, the first."""
    level_of: Mapping[Network, str]

    @property
    def others(self) -> tuple[str, ...]:
        """The levels that are compared with the reference."""
        return tuple(level for level in self.levels if level != self.reference)

    def named(self, level: str) -> str:
        """A level with the factor's name, unless it has it: "kernel_size 7", "with grn"."""
        return level if level in _onoff(self.name) else f"{self.name} {level}"

    def at(self, level: str) -> str:
        """A level as what is added or set: "kernel_size 7", "grn"; "without grn"."""
        return self.named(level).removeprefix("with ")


class _Described(NamedTuple):
    settings: Mapping[str, str]
    """{dotted key: JSON} of its design, recipe and own code. A key that is absent is null."""
    steps: Steps


class _Crossing(NamedTuple):
    networks: Sequence[Network]
    factors: Sequence[tuple[int, ...]]
    """The positions of the settings of each."""


Values = Mapping[Network, tuple[str, ...]]
"""By network, the settings that vary."""


def crossed_factors(comparison: Comparison) -> tuple[Factor, ...]:
    """The factors of the largest part of the networks that is crossed: each level of a factor was requested with each
    level of every other factor. Finished or not: a run that is missing must not hide a study.

    Where switches were set by hand, sets of steps belong to it if they are the same but for the factors, so that a
    ladder in the same folder does not hide a study; levels that are not crossed with all others are left out. One
    switch alone is a factor if it has at least three levels. Sets of steps without such networks are crossed only if
    they are all that was trained besides the ladder, and not where they are a study of the road's sections, which has
    Shapley values; other studies of steps contain crossings by chance. Empty if nothing is crossed.
    """
    networks = _described(comparison)
    every = {name: None for network in networks.values() for name in network.settings}
    names = [name for name in every if len({network.settings.get(name) for network in networks.values()}) > 1]
    values = {key: tuple(network.settings.get(name, NULL) for name in names) for key, network in networks.items()}
    by_hand: set[Network] = {network for network in networks if isinstance(network, str)}
    crossing = _of_switches(values, by_hand)
    crossing = crossing if crossing.networks else _of_steps(comparison, values)
    members = {key: networks[key] for key in crossing.networks}
    factors = tuple(_factor([names[index] for index in factor], members) for factor in crossing.factors)
    assert len({factor.name for factor in factors}) == len(factors), "the rows of tables name their factors"
    return factors


def join_crossed(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons, but those that differ in switches set by hand alone are one, where a study crossed these with
    steps: `rung=gelu,layer_norm design.kernel_size=3,5` trains two sets of steps with each kernel size, which are
    comparisons of their own otherwise. The joined one takes the place of the first of them.

    Not where networks with these switches are left over, as where a whole ladder was trained at another width.
    """
    groups: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        context = comparison.context
        rungs = [(rung.name, rung.steps) for rung in context.road.rungs]
        groups.setdefault(canonical([_without_switches(context).key, rungs]), []).append(comparison)
    instead: dict[int, list[Comparison]] = {}
    for group in groups.values():
        if len(group) > 1:
            joined = _joined(group)
            factors = crossed_factors(joined)
            switched = {*joined.runs["network"][joined.runs["set"].isna()]}
            if factors and switched <= factors[0].level_of.keys():
                instead |= {id(comparison): [] for comparison in group} | {id(group[0]): [joined]}
    return [each for comparison in comparisons for each in instead.get(id(comparison), [comparison])]


def _without_switches(context: Context) -> Context:
    differs = {key: value for key, value in context.differs.items() if not key.startswith("design.")}
    return dataclasses.replace(context, differs=differs)


def _joined(group: Sequence[Comparison]) -> Comparison:
    """One comparison of the runs of all, in which a network that differs by its context's switches has their names."""
    frames = []
    for comparison in group:
        runs, road = comparison.runs, comparison.road
        switches = {key: value for key, value in comparison.context.differs.items() if key.startswith("design.")}
        if switches:
            names = [
                name if steps is None else road.name_of(steps, switches)
                for name, steps in zip(runs["network"], runs["set"], strict=True)
            ]
            empty = pd.Series([None] * len(runs), index=runs.index, dtype=object)
            runs = runs.assign(network=names, set=empty, rung=empty)
        frames.append(runs)
    return Comparison(_without_switches(group[0].context), pd.concat(frames, ignore_index=True))


def _described(comparison: Comparison) -> dict[Network, _Described]:
    """The networks of a design, by key. Of several series of one network, that with the most runs that count."""
    networks: dict[frozenset, tuple[Network, _Described]] = {}
    runs = comparison.runs[comparison.runs["design"].map(bool)]
    counts = comparison.counted["network"].value_counts()
    rows = runs.drop_duplicates("network").to_dict("records")
    for run in sorted(rows, key=lambda run: -counts.get(run["network"], 0)):
        design = {RENAMED.get(name, name): value for name, value in run["design"].items()}
        settings = flat({"design": design, "recipe": run["recipe"] or {}, "code": run["code"] or {}})
        texts = ORIGINAL | {name: canonical(value) for name, value in settings.items()}
        key = run["network"] if run["set"] is None else run["set"]
        networks.setdefault(frozenset(texts.items()), (key, _Described(texts, frozenset(run["steps"] or ()))))
    return dict(networks.values())


def _of_switches(values: Values, by_hand: set[Network]) -> _Crossing:
    """The crossing that has the most networks whose switches were set by hand; of several, the largest."""
    # Opposite corners of a crossing differ in all of its factors, and other networks have the rest in common.
    candidates = {_varying(values, (first, second)) for first in by_hand for second in values}
    candidates.add(_varying(values, by_hand))
    largest, crossing = (0, len(values)), _Crossing((), ())
    for varying in sorted(candidates):
        for networks in _alike(values, varying):
            if (len(by_hand.intersection(networks)), len(networks)) <= largest:
                continue
            members = _complete(networks, values, varying)
            factors = _partitions(members, values, varying)
            size = len(by_hand.intersection(members)), len(members)
            is_enough = len(factors) > 1 or (factors and len(_levels(members, values, factors[0])) >= FEWEST_LEVELS)
            if is_enough and size > largest:
                largest, crossing = size, _Crossing(members, factors)
    return crossing


def _of_steps(comparison: Comparison, values: Values) -> _Crossing:
    """The crossing of all sets of steps that are no rungs, if they are one."""
    sets = values.keys() - {frozenset(rung.steps) for rung in comparison.road.rungs}
    if sets and not (has_sections(comparison) and sets <= {*measured_unions(comparison)}):
        varying = _varying(values, sets)
        for networks in _alike(values, varying):
            factors = _partitions(networks, values, varying)
            if sets <= {*networks} and len(factors) > 1 and not _missing(networks, values, factors):
                return _Crossing(networks, factors)
    return _Crossing((), ())


def _varying(values: Values, networks: Collection[Network]) -> tuple[int, ...]:
    """The positions of the settings in which these networks differ."""
    columns = zip(*(values[network] for network in networks), strict=True)
    return tuple(index for index, column in enumerate(columns) if len({*column}) > 1)


def _alike(values: Values, varying: Collection[int]) -> list[list[Network]]:
    """The networks in groups that differ in these settings alone."""
    groups: dict[tuple[str, ...], list[Network]] = {}
    for network, texts in values.items():
        rest = tuple(text for index, text in enumerate(texts) if index not in varying)
        groups.setdefault(rest, []).append(network)
    return list(groups.values())


def _partitions(networks: Sequence[Network], values: Values, varying: Iterable[int]) -> list[tuple[int, ...]]:
    """The settings of each factor: those that divide the networks in the same way. A setting that follows from another
    one belongs to its factor, as where one of three layers has an argument."""
    by_partition: dict[tuple[int, ...], list[int]] = {}
    for index in varying:
        numbers: dict[str, int] = {}
        partition = tuple(numbers.setdefault(values[network][index], len(numbers)) for network in networks)
        if len(numbers) > 1:
            by_partition.setdefault(partition, []).append(index)
    finest: dict[tuple[int, ...], list[int]] = {}
    for partition in sorted(by_partition, key=lambda partition: -len({*partition})):
        finer = next((each for each in finest if len({*zip(each, partition, strict=True)}) == len({*each})), partition)
        finest.setdefault(finer, []).extend(by_partition[partition])
    return sorted(tuple(sorted(indices)) for indices in finest.values())


def _levels(networks: Iterable[Network], values: Values, factor: tuple[int, ...]) -> Counter[tuple[str, ...]]:
    """The number of networks at each level of a factor."""
    return Counter(tuple(values[network][index] for index in factor) for network in networks)


def _missing(
    networks: Sequence[Network], values: Values, factors: Iterable[tuple[int, ...]]
) -> Counter[tuple[tuple[int, ...], tuple[str, ...]]]:
    """By factor and level: with how many levels of other factors it does not occur."""
    missing: Counter[tuple[tuple[int, ...], tuple[str, ...]]] = Counter()
    for pair in combinations(factors, 2):
        levels = [_levels(networks, values, factor) for factor in pair]
        occurring = _levels(networks, values, pair[0] + pair[1])
        for first, second in product(*levels):
            if first + second not in occurring:
                missing.update([(pair[0], first), (pair[1], second)])
    return missing


def _complete(networks: Sequence[Network], values: Values, varying: Collection[int]) -> list[Network]:
    """The networks without levels that are not crossed with all others: those of the fewest networks go first. None if
    factors can then no longer be distinguished."""
    members, all_factors = list(networks), _partitions(networks, values, varying)
    while missing := _missing(members, values, factors := _partitions(members, values, varying)):
        sizes = {
            (factor, level): size for factor in factors for level, size in _levels(members, values, factor).items()
        }
        factor, level = min(missing, key=lambda entry: (sizes[entry], -missing[entry], entry))
        members = [key for key in members if tuple(values[key][index] for index in factor) != level]
    return members if factors == all_factors else []


def _factor(settings: Sequence[str], networks: Mapping[Network, _Described]) -> Factor:
    """The factor of settings that change together over these networks."""
    texts = {key: tuple(network.settings.get(name, NULL) for name in settings) for key, network in networks.items()}
    levels = dict.fromkeys(texts.values())
    if steps := _steps_of(texts, networks):
        name = " + ".join(steps)
        without, with_ = _onoff(name)
        labels = {texts[key]: with_ if steps[0] in networks[key].steps else without for key in networks}
        levels = dict.fromkeys(sorted(levels, key=lambda level: labels[level] == with_))
        reference = next(iter(levels))
    else:
        switches = _switches(settings, {name for network in networks.values() for name in network.settings})
        name = shortened([*switches], NAMED, ", ".join)
        labels = _labels(settings, levels, switches)
        original = tuple(ORIGINAL.get(name, NULL) for name in settings)
        numbers = {level: _number(labels[level]) for level in levels}
        are_numbers = None not in numbers.values()
        ordered = sorted(levels, key=lambda level: numbers[level] or 0) if are_numbers else list(levels)
        reference = max(ordered, key=lambda level: sum(map(str.__eq__, level, original)))  # of several, the first
        if not are_numbers:
            ordered = [reference, *(level for level in ordered if level != reference)]
        levels = dict.fromkeys(ordered)
    of_network = {key: labels[level] for key, level in texts.items()}
    return Factor(name, tuple(labels[level] for level in levels), labels[reference], of_network)


def _steps_of(texts: Mapping[Network, tuple[str, ...]], networks: Mapping[Network, _Described]) -> list[str]:
    """The steps that are in the networks at one of two levels, and in none at the other."""
    if len({*texts.values()}) != 2:
        return []
    every = sorted({step for network in networks.values() for step in network.steps})
    return [
        step
        for step in every
        if len({(texts[key], step in network.steps) for key, network in networks.items()}) == 2
        and len({step in network.steps for network in networks.values()}) == 2
    ]


def _onoff(name: str) -> tuple[str, str]:
    """The levels of a factor of steps."""
    return f"without {name}", f"with {name}"


def _switches(settings: Sequence[str], every: Collection[str]) -> dict[str, list[str]]:
    """By name of a switch, its settings. A layer of which all settings are among these is one switch; of any other, of
    which some are the same in all networks or belong to another factor, each setting is a switch of its own."""
    switches: dict[str, list[str]] = {}
    for setting in settings:
        layer = ".".join(setting.split(".")[:3]) if setting.startswith("design.layers.") else setting
        is_whole = all(other in settings for other in every if other.startswith(f"{layer}."))
        name = layer if is_whole else setting
        switches.setdefault(name.removeprefix("design."), []).append(setting)
    own = {name: keys for name, keys in switches.items() if keys[0].startswith("design.")}
    return own or switches  # the recipe and the code follow from these


def _labels(
    settings: Sequence[str], levels: Iterable[tuple[str, ...]], switches: Mapping[str, Sequence[str]]
) -> dict[tuple[str, ...], str]:
    """The shortest texts that distinguish the levels: of layers the classes alone, else all settings, else as JSON."""
    by_level = {level: dict(zip(settings, level, strict=True)) for level in levels}
    classes = [next((key for key in keys if key.endswith(TARGET)), keys[0]) for keys in switches.values()]
    for chosen in (classes, [key for keys in switches.values() for key in keys]):
        labels = {
            level: ", ".join(_word(setting, texts[setting]) for setting in chosen) for level, texts in by_level.items()
        }
        if len({*labels.values()}) == len(labels):
            return labels
    return {level: ", ".join(level) for level in by_level}


def _word(setting: str, text: str) -> str:
    """A setting's JSON as a level's label: of a layer's class, the name without its module."""
    if setting.endswith(TARGET):
        return "none" if text == NULL else str(json.loads(text)).rpartition(".")[2]
    return text.replace(" ", "").strip('"')


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None
