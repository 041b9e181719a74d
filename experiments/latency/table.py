"""What was measured as text: a table with one row per network and setting, and what failed below it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from experiments.latency.record import Case, Timing, recorded
from experiments.latency.study import Latency
from roadmap.common.words import counted, shortened


def show(latency: Latency) -> None:
    """Print the table, how much the rounds differ, and what failed."""
    console = Console(highlight=False, markup=False)
    console.print(table(latency.cases, latency.plan.timings, latency.costs))
    spreads = []
    for case in latency.cases:
        for times in recorded(case).complete.values():
            low, median, high = np.quantile(times.ms, [0.25, 0.5, 0.75])
            spreads.append(max(high - median, median - low) / median)
    if spreads:
        console.print(
            f"medians; quartiles of the rounds are within {100 * np.median(spreads):.1f} % of them as a rule, "
            f"{100 * max(spreads):.1f} % at most",
            soft_wrap=True,
        )
    common = settings(latency.cases[0])
    console.print(f"on {', '.join(word for word in common if all(word in settings(it) for it in latency.cases))}")
    by_reason: dict[str, list[str]] = {}
    for (case, timing), reason in latency.failures.items():
        by_reason.setdefault(reason, []).append(f"{case.run.label} ({timing})")
    for reason, names in by_reason.items():
        console.print(Text(f"not measured: {shortened(names, 3)}: {reason}", "bold red"), soft_wrap=True)


def settings(case: Case) -> list[str]:
    """How a network was measured, in words."""
    run, on_cpu = case.run, case.device == "cpu"
    return [
        f"{case.processor}, {counted(case.threads, 'thread')}" if on_cpu else case.device,
        run.precision,
        case.memory_format,
        "compiled" if run.compile else "not compiled",
        *(["gradient checkpointing"] if run.gradient_checkpointing else []),
        f"{run.resolution} px",
        f"{case.classes} classes",
    ]


def table(cases: Sequence[Case], timings: Sequence[Timing], costs: dict[Case, dict[str, int]]) -> Table:
    most = max((cost["macs"] for cost in costs.values()), default=0)
    unit, letter = (10**9, "G") if most >= 10**9 else (10**6, "M")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("network", overflow="fold", min_width=21)
    table.add_column(f"MACs\n({letter})", justify="right", no_wrap=True)
    for timing in timings:
        mode = "step" if timing.mode == "training" else "batch"
        table.add_column(f"{mode}\n{timing.batch}\nms", justify="right", no_wrap=True)
        table.add_column("\n\nimages/s", justify="right", no_wrap=True)
    for case in cases:
        differs = [word for word in settings(case) if not all(word in settings(it) for it in cases)]
        times, cost = recorded(case).complete, costs.get(case)
        cells = []
        for timing in timings:
            ms = float(np.median(times[timing].ms)) if timing in times else None
            cells += ["-", "-"] if ms is None else [f"{ms:.3g}" if ms < 100 else f"{ms:,.0f}", _rate(timing, ms)]
        name = ", ".join([case.run.label, *differs])
        table.add_row(name, f"{cost['macs'] / unit:.2f}" if cost else "-", *cells)
    return table


def _rate(timing: Timing, ms: float) -> str:
    rate = 1e3 * timing.batch / ms
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
