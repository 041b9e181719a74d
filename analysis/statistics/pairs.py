"""Pairs of networks whose difference is of interest, also where a study skips rungs of the road."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.statistics.comparison import Steps
from analysis.statistics.estimates import Estimate, conclude
from analysis.text import step_name
from roadmap.roads import Road, Rung


class Pair(NamedTuple):
    """Two networks."""

    title: str
    kind: str
    """"road", "ends" or "beside"."""
    network: Steps
    reference: Steps


def pairs_of(road: Road, networks: Iterable[Steps], is_measured: Callable[[Steps, Steps], bool]) -> list[Pair]:
    """The pairs among these networks of which both are measured.

    "road": each rung and its nearest ancestor; "ends": the last rung and the first, unless they are such a pair;
    "beside": a network off the road and one that has a step less or more, a rung if there is one.
    """
    pairs = []
    for rung in road.rungs:
        ancestor = rung.parent and road[rung.parent]
        while ancestor and not is_measured(_steps(rung), _steps(ancestor)):
            ancestor = ancestor.parent and road[ancestor.parent]
        if ancestor:
            pairs.append(Pair(_title(road, rung, ancestor), "road", _steps(rung), _steps(ancestor)))
    last, first = frozenset(road.adopted), _steps(road.rungs[0])
    if last != first and is_measured(last, first) and not any(pair[2:] == (last, first) for pair in pairs):
        pairs.append(Pair("all steps", "ends", last, first))
    return [*pairs, *_beside(road, [*networks], is_measured)]


def _beside(road: Road, networks: Sequence[Steps], is_measured: Callable[[Steps, Steps], bool]) -> list[Pair]:
    rungs = {_steps(rung) for rung in road.rungs}
    titles = {rung.step: step_name(rung.title) for rung in road.rungs if rung.adopted}
    pairs: list[Pair] = []
    for network in sorted({*networks} - rungs, key=road.in_order):
        others = [other for other in networks if len(network ^ other) == 1 and is_measured(network, other)]
        if not others:
            continue
        other = min(others, key=lambda key: (key not in rungs, road.in_order(key)))
        small, large = sorted((network, other), key=len)
        (step,) = large - small
        pair = Pair(f"{titles.get(step, step)} on {road.name_of(small)}", "beside", large, small)
        if pair not in pairs:
            pairs.append(pair)
    return pairs


def conclude_pairs(pairs: Sequence[Pair], estimates: Sequence[Estimate], looks: int) -> pd.DataFrame:
    """`conclude` for an estimate per pair: those of "ends" are a claim of its own, as in a ladder's report."""
    kinds = pd.Series([pair.kind for pair in pairs])
    families = [kinds.index[kinds == "ends"], kinds.index[kinds != "ends"]]
    tables = [
        conclude([estimates[index] for index in family], looks).set_index(family) for family in families if len(family)
    ]
    return pd.concat(tables).sort_index()


def _title(road: Road, rung: Rung, ancestor: Rung) -> str:
    """What lies between two rungs: a step, a section of the road, or several."""
    if rung.parent == ancestor.name:
        return step_name(rung.title)
    between = {*rung.steps} - {*ancestor.steps}
    sections = (title for title, steps in road.groups().items() if {*steps} == between)
    return next(sections, f"{ancestor.name} to {rung.name}")


def _steps(rung: Rung) -> Steps:
    return frozenset(rung.steps)
