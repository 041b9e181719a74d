"""Looks at the results of a study: seeds that are added after a result is there are counted (docs/seeds.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from experiments.config.run import Run
from experiments.records.record import read_summary
from roadmap.common.statuses import Status
from roadmap.common.words import counted, counted_each


def count_look(
    members: Sequence[Run], manifest: Mapping[str, Any], planned: Sequence[int], continues: bool = False
) -> tuple[list[dict[str, Any]], list[str]]:
    """The looks at a study that is launched with these runs, and lines for the terminal on the last of them.

    It is a new look if a network of which a run is done gets seeds that no earlier launch announced. Otherwise the runs
    belong to the look before: an interrupted study that goes on, other networks, other seeds of networks without a
    result, the search and the second phase of a tuned study. The plan is that of the launches before the first result.

    Args:
        manifest: `runs/studies/NAME.json` of the earlier launch; empty for the first.
        planned: the numbers of seeds of the setting `looks`.
        continues: whether the same command has been counted already. Then there is nothing more to say, either.

    Returns:
        For each look its `number` from 1, the `planned` numbers of seeds, the `date`, the most `seeds` of a network
        that were announced until then, and the `runs` that were announced for it.
    """
    looks = _known(manifest)
    announced = {name for look in looks for name in look["runs"]}
    summaries = [read_summary(members[0].runs / name) or {} for name in announced]
    with_results = {summary.get("series") for summary in summaries if summary.get("status") == Status.DONE}
    lines = []
    if with_results and [*planned] not in ([], looks[0]["planned"]):
        before = looks[0]["planned"]
        counts = f"what counts is looks={before}" if before else "it has none"
        lines.append(
            f"warning: looks={[*planned]} comes after the first results of this study, so it is no plan; {counts}. A "
            "new study needs another study_name"
        )
    elif looks and not with_results and planned:
        looks = [look | {"planned": [*planned]} for look in looks]
    new = [run for run in members if run.name not in announced]
    if not looks or (not continues and any(run.series in with_results for run in new if not run.tuning)):
        plan = looks[0]["planned"] if looks else [*planned]
        looks.append({"number": len(looks) + 1, "planned": plan, "date": _now(), "seeds": 0, "runs": []})
    looks[-1]["runs"] = sorted([*looks[-1]["runs"], *{run.name for run in new}])
    series = {name: summary.get("series") for name, summary in zip(announced, summaries, strict=True)}
    series |= {run.name: run.series for run in members}
    of_search = {run.name for run in members if run.tuning}
    names = [name for look in looks for name in look["runs"] if name not in of_search]
    looks[-1]["seeds"] = _most_seeds(series[name] or name for name in names)
    return looks, [] if continues else [*lines, *_lines(looks)]


def _known(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The looks of an earlier launch; that of a version that did not count them is the first."""
    names = manifest.get("runs")
    earlier: dict[str, Any] = {"number": 1, "planned": [], "date": None, "seeds": 0, "runs": names}
    looks = manifest.get("looks") or ([earlier] if names else [])
    kinds = {"number": int, "planned": list, "seeds": int, "runs": list}
    is_sound = isinstance(looks, list) and all(
        isinstance(look, dict)
        and all(isinstance(look.get(key), kind) for key, kind in kinds.items())
        and all(isinstance(name, str) for name in look["runs"])
        for look in looks
    )
    return [dict(look) for look in looks] if is_sound else []


def _most_seeds(series: Iterable[str]) -> int:
    """The most runs of a network, by the series of each run, or its name where no record has it."""
    return max(Counter(series).values(), default=0)


def _lines(looks: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is worth saying of the last look."""
    number, planned, seeds = (looks[-1][key] for key in ("number", "planned", "seeds"))
    if not planned:
        if number == 1:
            return []
        return [
            f"warning: look {number} at this study: it gets seeds after results were there, without a plan. The report "
            "says so; looks=[...] plans the looks of a new study (docs/seeds.md)"
        ]
    plan = f"planned with {counted_each(planned, 'seed')}"
    if number > len(planned):
        return [f"warning: look {number} at this study, but {counted(len(planned), 'look')} {plan}; the report says so"]
    line = f"look {number} of {len(planned)}, {plan}: {counted(seeds, 'seed')}"
    wanted = planned[number - 1]
    if seeds == wanted:
        return [line]
    so = "the report says so" if seeds > wanted else "seeds that a network gets after its first result are another look"
    return [f"warning: {line}, not {wanted}; {so}"]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
