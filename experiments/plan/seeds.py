"""How many seeds a study needs to show a change, or that there is none worth mentioning; and what they cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from analysis.measures import measure
from analysis.sources.load import load
from analysis.sources.rows import run_frame, run_row
from analysis.sources.runs import RecordsError, Runs
from analysis.statistics.comparison import Comparison, comparisons
from analysis.statistics.crossing import crossed_factors, join_crossed
from analysis.statistics.noise import FEWEST
from analysis.statistics.power import (
    POWER,
    RunNoise,
    planned_freedom,
    power_to_exclude,
    power_to_show,
    run_noise,
    seeds_needed,
    seeds_to_exclude,
    tests_of,
)
from analysis.text import percent
from experiments.config.run import Run
from experiments.errors import SettingsError
from experiments.plan.cost import Cost
from experiments.plan.network import Network

RECORDS, PAPER = "records", "paper"
"""Where the noise may be from, besides a stated number."""
QUEUED = "queued"


@dataclass(frozen=True)
class Noise:
    """Of a run: the standard deviation of its result."""

    deviation: float
    source: str
    """In words."""


@dataclass(frozen=True)
class SeedPlan:
    """The seeds that the networks of one context need, all of them the same ones."""

    title: str
    """Of the context; empty if it is the study's only one."""
    unit: str
    detect: float | None
    """The true change to show."""
    margin: float | None
    """Changes nearer to 0 than this are negligible."""
    noise: Noise
    networks: int
    tests: int
    """Changes in the family."""
    is_crossed: bool
    """Whether several switches are crossed."""
    looks: int
    planned: int
    """Seeds of a network as the study is planned."""
    done: dict[str, int]
    """{series: runs that are done}, whether planned or not."""

    def needed(self) -> dict[str, tuple[int | None, int | None]]:
        """{"detect" or "margin": seeds by a change's own p, and by Holm}; None where no number is enough."""
        arguments = self.noise.deviation, self.networks
        return {
            name: (find(size, *arguments, 1, self.looks), find(size, *arguments, self.tests, self.looks))
            for name, size, find in (
                ("detect", self.detect, seeds_needed),
                ("margin", self.margin, seeds_to_exclude),
            )
            if size is not None
        }

    def power(self, name: str) -> tuple[float, float]:
        """The power of the seeds that are planned, by a change's own p and by Holm; NaN for a single seed."""
        size, power_of = (self.detect, power_to_show) if name == "detect" else (self.margin, power_to_exclude)
        if self.planned < 2 or size is None:
            return math.nan, math.nan
        own, holm = (
            power_of(size, self.noise.deviation, self.planned, self.networks, 0.05 / self.looks / tests)
            for tests in (1, self.tests)
        )
        return own, holm

    def hours(self, cost: Cost, seeds: int) -> tuple[float | None, float | None]:
        """Core- or GPU-hours of that many seeds of each network: in all, and beyond what is done."""
        total, left = 0.0, 0.0
        for network in self._networks(cost):
            if network.seconds is None:
                return None, None
            total += network.seconds * seeds
            missing = max(seeds - self.done.get(network.run.series, 0), 0)
            left += network.seconds * max(missing - sum(1 - part for part in network.missing), 0)
        return cost.hours(total), cost.hours(left)

    def _networks(self, cost: Cost) -> list[Network]:
        return [network for network in cost.networks if network.run.series in self.done]

    def lines(self, cost: Cost) -> list[str]:
        """For the terminal."""
        lines = [f"{self.title}:"] if self.title else []
        level = f"0.05/{self.looks * self.tests}" if self.looks * self.tests > 1 else "0.05"
        looks = f" at one of {self.looks} planned looks" if self.looks > 1 else ""
        aims = {
            "detect": f"to show a change of {_amount(self.detect, self.unit)}" if self.detect else "",
            "margin": f"to show that a change of 0 is negligible, within ±{_amount(self.margin, self.unit)}"
            if self.margin
            else "",
        }
        freedoms = []
        for name, (own, holm) in self.needed().items():
            by_holm = f", {_seeds(holm)} by Holm (p < {level}: the first of {self.tests} changes)" * (self.tests > 1)
            lines.append(f"{aims[name].rstrip()} with power {POWER:g}{looks}: {_seeds(own)} by its own p{by_holm}")
            for seeds in dict.fromkeys((own, holm)):
                if seeds:
                    total, left = (_hours(hours) for hours in self.hours(cost, seeds))
                    unit = f"{cost.hardware.unit}-hours"
                    lines.append(f"  {seeds} seeds: {total} {unit} in all, {left} beyond what is done")
                    freedoms.append(f"{planned_freedom(seeds, self.networks):.0f} with {seeds} seeds")
            own_power, holm_power = self.power(name)
            if not math.isnan(own_power):
                power = f"{own_power:.2f}" + f" by its own p, {holm_power:.2f} by Holm" * (self.tests > 1)
                lines.append(f"  the {self.planned} seeds of this command: power {power}")
        lines.append(f"noise of a run: {percent(self.noise.deviation)} {self.unit}, {self.noise.source}")
        if self.is_crossed:
            lines.append(
                "a change is the difference between two networks: an effect that is averaged over other switches needs "
                "fewer seeds, an interaction of two switches about twice as many"
            )
        if freedoms:
            lines.append(f"degrees of freedom of a change: {', '.join(dict.fromkeys(freedoms))}")
        return lines

    def to_json(self, cost: Cost) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        for name, needed in self.needed().items():
            size = {"detect": self.detect, "margin": self.margin}[name]
            answers[name] = {"points": size, "power": POWER}
            for way, seeds, power in zip(("own", "holm"), needed, self.power(name), strict=True):
                total, left = self.hours(cost, seeds) if seeds else (None, None)
                answers[name][way] = {
                    "seeds": seeds,
                    "freedom": planned_freedom(seeds, self.networks) if seeds else None,
                    "hours_in_all": total,
                    "hours_left": left,
                    "power_as_planned": None if math.isnan(power) else power,
                }
        return {
            "context": self.title or None,
            "noise": self.noise.deviation,
            "noise_source": self.noise.source,
            "networks": self.networks,
            "tests": self.tests,
            "looks": self.looks,
            **answers,
        }


def plan_seeds(
    runs: Sequence[Run], detect: float | None, margin: float | None, noise: float | str | None, looks: int = 1
) -> list[SeedPlan]:
    """One plan per context of these runs that has at least two networks.

    Args:
        noise: a number; RECORDS or PAPER; None: what is there of the two, in this order.
        looks: how many this command plans. If runs on record planned more, these count, as in the report.

    Raises:
        SettingsError: if there is nothing to compare, or the noise is not known.
    """
    planned = {run.identity for run in runs}
    recorded = _recorded(runs[0])
    known = {row["identity"] for row in recorded}
    rows = [*recorded, *(_planned_row(run) for run in runs if run.identity not in known)]
    plans = []
    for comparison in join_crossed(comparisons(Runs(run_frame(rows)))):
        of_study = comparison.runs[comparison.runs["identity"].isin(planned)]
        study = replace(comparison, runs=of_study)
        networks = of_study["network"].nunique()
        if networks < 2:
            continue
        done = comparison.counted.groupby("series").size()
        plans.append(
            SeedPlan(
                title=comparison.context.title,
                unit=measure(comparison.metric).unit,
                detect=detect,
                margin=margin,
                noise=_noise(comparison, noise, runs[0]),
                networks=networks,
                tests=max(tests_of(study), 1),
                is_crossed=len(crossed_factors(study)) > 1,
                looks=max(looks, comparison.looks),
                planned=int(of_study.groupby("network")["seed"].nunique().min()),
                done={series: int(done.get(series, 0)) for series in of_study["series"].unique()},
            )
        )
    if not plans:
        raise SettingsError("--detect and --margin need at least two networks that are trained alike; these are not")
    return [replace(plan, title="") for plan in plans] if len(plans) == 1 else plans


def _recorded(run: Run) -> list[dict[str, Any]]:
    """The rows of the runs under `runs`."""
    try:
        return load(run.runs).runs.to_dict("records") if run.runs.is_dir() else []  # type: ignore[return-value]
    except RecordsError:
        return []


def _planned_row(run: Run) -> dict[str, Any]:
    """The row of a run that has no record yet."""
    summary = {"status": QUEUED, "identity": run.identity, "series": run.series, "task": run.task.name}
    return run_row(str(run.directory), run.name, run.to_json(), summary | {"metric": run.task.metric})


def _noise(comparison: Comparison, wanted: float | str | None, run: Run) -> Noise:
    if isinstance(wanted, float):
        return Noise(wanted, "stated")
    recorded = run_noise(comparison.scores()) if wanted in (None, RECORDS) else None
    if recorded:
        return _of_records(recorded, run)
    if wanted != RECORDS and (paper := _of_paper(comparison, wanted == PAPER)):
        return paper
    few = f"fewer than {FEWEST} networks that trained have several finished seeds in runs={run.runs}"
    reasons = {
        RECORDS: few,
        PAPER: "the paper gives no standard deviations for this regime",
        None: f"the noise of {comparison.context.title} is not known: {few}, and it is not what the paper trained",
    }
    raise SettingsError(f"{reasons[wanted]}; state --noise NUMBER, the standard deviation of a run over seeds")


def _of_records(recorded: RunNoise, run: Run) -> Noise:
    low, high = recorded.interval
    return Noise(
        recorded.deviation,
        f"from {recorded.networks} networks in runs={run.runs} (95 % interval {percent(low)} to {percent(high)}), "
        "without what a seed adds to all networks",
    )


def _of_paper(comparison: Comparison, in_any_regime: bool) -> Noise | None:
    """The root mean square of the road's published standard deviations, of the regime that was published, or of any."""
    road, context = comparison.road, comparison.context
    deviations = [rung.published.std for rung in road.rungs if rung.published and rung.published.std]
    is_published = context.on_imagenet and context.regime == road.published
    if not deviations or not (is_published or in_any_regime):
        return None
    mean_square = sum(deviation**2 for deviation in deviations) / len(deviations)
    elsewhere = "" if is_published else f", of {road.published} on ImageNet-1K: not this study's"
    return Noise(
        math.sqrt(mean_square),
        f"from the paper’s {len(deviations)} standard deviations{elsewhere}; with what a seed adds to all networks, so "
        "rather too much",
    )


def _amount(number: float, unit: str) -> str:
    """ "0.5 points", "1 point"."""
    return f"{number:g} {unit.removesuffix('s') if number == 1 else unit}".rstrip()


def _seeds(seeds: int | None) -> str:
    return "no number of seeds is enough" if seeds is None else f"{seeds} seeds"


def _hours(hours: float | None) -> str:
    return (
        "?" if hours is None else f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.3f}"
    )
