"""The ladder: what each step changed, against its parent, over seeds, with the published ladder beside it."""

from __future__ import annotations

import math

import pandas as pd

from analysis.comparison import Comparison, network_table
from analysis.estimates import compare
from analysis.provenance import describe
from roadmap.steps import Rung, ladder, load

MEASURED = (
    *("n", "left_out", "top1_mean", "top1_std", "top1_low", "top1_high"),
    *("macs", "params", "activations", "images_per_second", "train_seconds", "peak_memory_mb", "device_hours"),
)
CHANGES = ("change", "low", "high", "p", "p_holm", "detectable", "method", "verdict")


def ladder_table(comparison: Comparison) -> pd.DataFrame:
    """A row a rung, in the paper's order, measured or not.

    `rung`, `parent`, `title`, `section`, `adopted`; `n` seeds, `left_out` runs, `top1_mean`, `top1_std` (percent,
    n - 1), `top1_low`, `top1_high` (its 95 % interval); `macs`, `params`, ... (`network_table`); `change` from the
    parent (points) with its 95 % interval `low`, `high`, `p`, `p_holm`, `detectable`, `method` (`compare`), and
    `verdict`, which says what is lacking where there is no change; `published_top1`, `published_std`,
    `published_change`, `published_gflops`.

    `attrs` has words for captions (`caption`).
    """
    rungs = comparison.rungs
    scores = comparison.scores()
    steps = {rung.name: frozenset(rung.steps) for rung in rungs}
    changes = compare(scores, [{steps[rung.name]: 1.0, steps.get(rung.parent): -1.0} for rung in rungs])
    changes = changes.rename(columns={"value": "change"})
    changes["verdict"] = [
        verdict or _why_no_change(rung, measured=steps[rung.name] in scores)
        for verdict, rung in zip(changes["verdict"], rungs, strict=True)
    ]
    networks = network_table(comparison)
    networks = networks[networks["rung"].notna()].set_index("rung")[list(MEASURED)]
    table = _published(rungs)
    table = table.join(networks, on="rung").join(changes[list(CHANGES)])
    table[["n", "left_out"]] = table[["n", "left_out"]].fillna(0).astype(int)
    table.attrs = caption(comparison)
    return table


def caption(comparison: Comparison) -> dict[str, str]:
    """Words for captions: `title`, `scale`, `about`, `dataset`, `published`. `attrs` of every table has them."""
    context = comparison.context
    return {
        "title": context.title,
        "scale": context.scale,
        "about": describe(comparison),
        "dataset": context.dataset,
        "published": load("regime", context.regime).regime.published if comparison.rungs else "",
    }


def entitled(table: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """A table that has a `step`, with its `title` and `section` beside it; a step of no known ladder is its own."""
    known = {rung.name: (rung.title, rung.section) for rung in comparison.rungs}
    words = [known.get(step, (step, "")) for step in table["step"]]
    return table.assign(title=[title for title, _ in words], section=[section for _, section in words])


def published_ladder(regime: str = "resnet50") -> pd.DataFrame:
    """The columns of `ladder_table` from the published numbers alone: `resnet50` (Table 10) or `resnet200` (Table 11).

    Raises:
        ValueError: if there is no such regime.
    """
    table = _published(ladder(regime))
    table[["n", "left_out"]] = 0
    table = table.reindex(columns=[*table.columns, *(name for name in MEASURED + CHANGES if name not in table)])
    table.attrs = {
        "title": f"{regime} on ImageNet-1K, as published",
        "scale": f"{regime} on ImageNet-1K, 224 px: the paper's own numbers",
        "about": "arXiv 2201.03545, Table 10" if regime != "resnet200" else "arXiv 2201.03545, Table 11",
        "dataset": "ImageNet-1K",
        "published": load("regime", regime).regime.published,
    }
    return table


def _published(rungs: tuple[Rung, ...]) -> pd.DataFrame:
    """What is known of every rung before anything is trained."""
    top1 = {rung.name: rung.published.top1 for rung in rungs}
    rows = [
        {
            "rung": rung.name,
            **{name: getattr(rung, name) for name in ("parent", "title", "section", "adopted")},
            "published_top1": rung.published.top1,
            "published_std": math.nan if rung.published.std is None else rung.published.std,
            "published_change": round(rung.published.top1 - top1[rung.parent], 2) if rung.parent else math.nan,
            "published_gflops": rung.published.gflops,
        }
        for rung in rungs
    ]
    columns = ["rung", "parent", "title", "section", "adopted"]
    columns += ["published_top1", "published_std", "published_change", "published_gflops"]
    return pd.DataFrame(rows, columns=columns)


def _why_no_change(rung: Rung, measured: bool) -> str:
    if not measured:
        return "no finished run"
    return "start" if rung.parent is None else "parent missing"
