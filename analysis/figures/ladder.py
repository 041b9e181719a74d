"""A ladder, drawn like the paper's Figure 2."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.figures.style import PALETTE, Drawing, style
from analysis.measures import VERDICTS, measure
from analysis.statistics.ladder import compared_with, included
from analysis.text import macs_unit, percent, scaled, signed, stretches, trained, wrapped
from roadmap.roads import OWN, Reference

# The layout in inches, from the left: section, rung, bars, change, MACs, the published numbers.
ROW, TOP, BOTTOM = 0.33, 1.5, 1.0
SECTION_X, RUNG_X = 0.25, 3.95
WIDTH, BARS, CHANGE_X, MACS_X, PUBLISHED = 11.6, (4.1, 7.75), 8.45, 9.15, (9.45, 11.35)
WIDE_BARS, WIDE_CHANGE_X, WIDE_MACS_X = (4.1, 9.55), 10.35, 11.3  # with measured or published numbers alone
VALUE_X = 5
"""Typographic points from a bar's end to its value."""
LONGEST_NUMBER = 4
"""Characters of a section's number; one with more is called by its title alone."""
LONGEST_TITLE = 34
"""Characters of a rung's title; the rest is cut."""


def ladder_figure(table: pd.DataFrame, background: pd.DataFrame | None = None) -> Figure:
    """One bar per rung, the road's first at the top and its last at the bottom: the rungs of a measured ladder that
    have runs, or all of a `published_ladder`.

    Measured accuracies have the published ones beside them, on a separate axis, if there are any. Hatched bars are
    the steps that were not adopted; error bars are one standard deviation over seeds; stars are networks that the road
    is compared with, such as the Transformer of that size.

    Args:
        table: from `ladder_table` or `published_ladder`.
        background: another `published_ladder`, in grey behind a published one: the paper's Figure 2 has the resnet200
            regime there.
    """
    table = included(table)
    measured = bool((table["n"] > 0).any())
    has_published = bool(table["published_top1"].notna().any())
    references = table.attrs.get("references", ()) if has_published else ()
    rows = len(table) + len(references)
    with style():
        height = TOP + ROW * rows + BOTTOM
        figure = Drawing(figsize=(WIDTH, height))
        page = _columns(figure, (0, WIDTH), rows)
        page.set_xlim(0, WIDTH)
        page.axis("off")
        _draw_sections(page, table)
        if measured and has_published:
            _draw_texts(page, table, table["change"], CHANGE_X, MACS_X, table["macs"])
            _draw_measured(_columns(figure, BARS, rows), table)
            _draw_beside(_columns(figure, PUBLISHED, rows), table, references)
        elif measured or not has_published:
            _draw_texts(page, table, table["change"], WIDE_CHANGE_X, WIDE_MACS_X, table["macs"])
            _draw_measured(_columns(figure, WIDE_BARS, rows), table)
        else:
            _draw_texts(page, table, table["published_change"], WIDE_CHANGE_X, WIDE_MACS_X)
            _draw_published(_columns(figure, WIDE_BARS, rows), table, background, references)
        for index, reference in enumerate(references, len(table)):
            text_style: dict[str, Any] = {"ha": "right", "va": "center", "color": PALETTE["published"]}
            page.text(RUNG_X, index, reference.name, **text_style)
            if not measured:
                page.text(WIDE_MACS_X, index, f"{reference.gflops:.2f}", **text_style)
        _draw_titles(figure, table, background, heads=measured and has_published)
        _draw_legend(figure, table, measured, background, references)
        return figure


def _columns(figure: Figure, span: tuple[float, float], rows: int) -> Axes:
    """Axes between two distances from the left (inches), where y is the row, 0 at the top."""
    left, right = span
    height = figure.get_figheight()
    box = (left / WIDTH, BOTTOM / height, (right - left) / WIDTH, ROW * rows / height)
    axes = figure.add_axes(box)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    return axes


def _draw_sections(page: Axes, table: pd.DataFrame) -> None:
    """A band and a name for each section of the road."""
    titles = table.attrs.get("sections", {})
    for index, (section, rows) in enumerate(stretches(table)):
        first, last = rows.index[0] - 0.5, rows.index[-1] + 0.5
        if index % 2 == 0:
            page.axhspan(first, last, xmin=0.12 / WIDTH, xmax=1 - 0.12 / WIDTH, color=PALETTE["band"], lw=0)
        middle = (first + last) / 2
        title = titles.get(section, section)
        numbered = section not in (title, OWN) and len(section) <= LONGEST_NUMBER
        if numbered:
            page.text(SECTION_X, middle, section, va="center", fontsize=8.5, color=PALETTE["muted"])
        title = wrapped(title, 12 if numbered else 16, 2 * len(rows))
        page.text(SECTION_X + 0.34 * numbered, middle, title, va="center", fontsize=8.5)


def _draw_texts(
    page: Axes,
    table: pd.DataFrame,
    changes: pd.Series,
    change_x: float,
    macs_x: float,
    macs: pd.Series | None = None,
) -> None:
    """The columns of text: rung, change, multiply-adds; published ones are printed in billions."""
    unit, prefix = (1, "G") if macs is None else macs_unit(macs)
    macs = table["published_gflops"] if macs is None else macs
    for x, head in {RUNG_X: "step", change_x: "change", macs_x: f"MACs ({prefix})"}.items():
        page.text(x, -0.85, head, ha="right", fontsize=8.5, color=PALETTE["muted"])
    ends = (table.index[0], *table.index[table["adopted"]][-1:])
    shown = zip(table.itertuples(), changes, macs, strict=True)
    for row, change, cost in shown:
        page.text(
            *(RUNG_X, row.Index, wrapped(row.title, LONGEST_TITLE, 1)),
            ha="right",
            va="center",
            fontweight="bold" if row.Index in ends else "normal",
        )
        clear = row.verdict in VERDICTS
        page.text(
            *(change_x, row.Index, "" if pd.isna(row.reference) else signed(change)),
            ha="right",
            va="center",
            fontweight="bold" if clear else "normal",
            color=PALETTE["ink" if clear or not row.n else "muted"],
        )
        page.text(macs_x, row.Index, scaled(cost, unit), ha="right", va="center")


def _draw_measured(axes: Axes, table: pd.DataFrame) -> None:
    """Mean accuracy, its standard deviation and its value; a note where there is no run."""
    done = table[table["n"] > 0]
    spread = done["std"].fillna(0)
    room = 0.95 if (done["stopped"] > 0).any() else 0.55 if (done["diverged"] > 0).any() else 0.3
    _bar_axis(axes, (done["mean"] - spread).min(), (done["mean"] + spread).max(), room)
    for row, error in zip(done.itertuples(), spread, strict=True):
        seeds = f", {trained(row.n, row.diverged, row.stopped)}" if row.diverged or row.stopped else ""
        _bar(axes, row, row.mean, error, percent(row.mean, row.std) + seeds)
    for row in table[table["n"] == 0].itertuples():
        counts = {"diverged": row.diverged, "stopped early": row.stopped}
        total = sum(counts.values())
        reason = ", ".join(f"{count} of {total} {what}" for what, count in counts.items() if count) or "no finished run"
        axes.text(
            *(axes.get_xlim()[0], row.Index, f"  {reason}"),
            va="center",
            fontsize=8,
            style="italic",
            color=PALETTE["muted"],
        )
    dataset, metric = table.attrs.get("dataset"), measure(table.attrs.get("metric", "top1"))
    on = f" on {dataset}" if dataset else ""
    axes.set_xlabel(f"{metric.name}{on}{metric.percent}; the axis starts at {axes.get_xlim()[0]:g}")


def _draw_published(
    axes: Axes, table: pd.DataFrame, background: pd.DataFrame | None, references: tuple[Reference, ...]
) -> None:
    """Published accuracies as the figure's own bars, those of a larger regime in grey behind them."""
    behind = table["published_top1"] if background is None else background["published_top1"]
    _bar_axis(axes, table["published_top1"].min(), max(table["published_top1"].max(), behind.max()), room=0.16)
    low = axes.get_xlim()[0]
    height = 0.68 if background is None else 0.46
    if background is not None:
        for index, row in enumerate(background.itertuples()):
            axes.barh(
                *(index, row.published_top1 - low),
                left=low,
                height=0.86,
                color=PALETTE["behind"],
                edgecolor=PALETTE["paper"],
                hatch=None if row.adopted else "////",
                linewidth=0,
            )
            _value(axes, row.published_top1, index, f"{row.published_top1:.1f}", PALETTE["muted"])
    for row in table[table["published_top1"].notna()].itertuples():
        error = 0 if pd.isna(row.published_std) else row.published_std
        text = percent(row.published_top1, row.published_std)
        if background is None:
            _bar(axes, row, row.published_top1, error, text, height)
        else:
            _bar(axes, row, row.published_top1, error, "", height)
            axes.annotate(
                *(f"{row.published_top1:.1f}", (low, row.Index)),
                xytext=(5, 0),
                textcoords="offset points",
                va="center",
                fontsize=7.5,
                color=PALETTE["paper" if row.adopted else "ink"],
                fontweight="bold",
                bbox=None if row.adopted else {"fc": PALETTE["side"], "ec": "none", "pad": 1},
            )
    background_references = () if background is None else background.attrs.get("references", ())
    for networks, colour in ((references, PALETTE["published"]), (background_references, PALETTE["muted"])):
        for index, network in enumerate(networks, len(table)):
            axes.plot([network.top1] * 2, [-0.5, index], color=colour, lw=0.8, ls=(0, (2, 3)), zorder=1)
            _star(axes, network, index, colour, named=bool(background_references))
    axes.set_xlabel(f"ImageNet-1K top-1 accuracy (%), as published; the axis starts at {low:g}")


def _bar_axis(axes: Axes, lowest: float, highest: float, room: float) -> None:
    """Sets the limits so that the shortest bar has a visible length, and the longest has room for its value."""
    if pd.isna(lowest):
        lowest, highest = 0.0, 100.0
    start = max(lowest - 0.15 * max(highest - lowest, 2), 0)
    ticks = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(start, highest)
    end = highest + room * (highest - ticks[0])
    axes.set_xlim(ticks[0], end)
    axes.set_xticks([tick for tick in ticks if tick <= end])
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def _bar(axes: Axes, row: Any, value: float, error: float, text: str, height: float = 0.68) -> None:
    low = axes.get_xlim()[0]
    axes.barh(
        *(row.Index, value - low),
        left=low,
        height=height,
        color=PALETTE["bar" if row.adopted else "side"],
        edgecolor=PALETTE["bar"],
        hatch=None if row.adopted else "////",
        linewidth=0.7,
    )
    if error:
        axes.errorbar(value, row.Index, xerr=error, color=PALETTE["ink"], capsize=2.5, lw=1)
    _value(axes, value + error, row.Index, text, PALETTE["ink"])


def _value(axes: Axes, x: float, row: int, text: str, colour: str) -> None:
    offset: dict[str, Any] = {"xytext": (VALUE_X, 0), "textcoords": "offset points"}
    clear = {"fc": PALETTE["paper"], "ec": "none", "pad": 0.8, "alpha": 0.85}  # hides lines that pass behind it
    axes.annotate(text, (x, row), **offset, va="center", fontsize=8, color=colour, bbox=clear)


def _star(axes: Axes, network: Reference, y: float, colour: str, named: bool) -> None:
    axes.plot(network.top1, y, "*", ms=10, color=colour, clip_on=False)
    axes.annotate(
        *(f"{network.name} {network.top1:.1f}" if named else f"{network.top1:.1f}", (network.top1, y)),
        xytext=(8, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=colour,
    )


def _draw_beside(axes: Axes, table: pd.DataFrame, references: tuple[Reference, ...]) -> None:
    """Published accuracies beside the measured ones, in a light style and on a separate axis: most are of another
    dataset and scale."""
    table = table[table["published_top1"].notna()]
    adopted = table[table["adopted"]]
    colour = PALETTE["published"]
    values = [*table["published_top1"], *(network.top1 for network in references)]
    low, wide = min(values), max(max(values) - min(values), 1.0)
    axes.set_xlim(low - 0.1 * wide, low + 1.42 * wide)
    axes.plot(adopted["published_top1"], adopted.index, color=colour, lw=0.8, alpha=0.5)
    for row in table.itertuples():
        error = None if pd.isna(row.published_std) else row.published_std
        face = colour if row.adopted else PALETTE["paper"]
        axes.errorbar(
            *(row.published_top1, row.Index),
            xerr=error,
            fmt="o",
            ms=4,
            color=colour,
            mfc=face,
            lw=0.9,
            capsize=1.5,
        )
        axes.annotate(
            *(f"{row.published_top1:.2f}", (row.published_top1, row.Index)),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=7.5,
            color=PALETTE["muted"],
        )
    for index, network in enumerate(references):
        _star(axes, network, axes.get_ylim()[0] + 0.5 - len(references) + index, colour, named=False)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    axes.set_xlabel("ImageNet-1K top-1 (%)")


def _draw_titles(figure: Figure, table: pd.DataFrame, background: pd.DataFrame | None, heads: bool) -> None:
    height = figure.get_figheight()

    def write(x: float, from_top: float, text: str, **style: Any) -> None:
        figure.text(x / WIDTH, 1 - from_top / height, text, **style)

    road = wrapped(table.attrs.get("road", "The road"), 60, 1)
    start = table["reference"].dropna() if table.attrs.get("reference") else ()
    what = wrapped(f"rungs against {start.iloc[0]}", 40, 1) if len(start) else "one step at a time"
    write(SECTION_X, 0.42, f"{road}, {what}", fontsize=16, fontweight="bold")
    about = [ladder.attrs.get("about", "") for ladder in (table, background) if ladder is not None]
    write(SECTION_X, 0.72, table.attrs.get("scale", ""), fontsize=10.5)
    write(SECTION_X, 0.95, "; behind: ".join(about), color=PALETTE["muted"])
    if heads:
        write(BARS[0], TOP - 0.13, "measured here", fontweight="bold")
        write(PUBLISHED[0], TOP - 0.13, "published", fontweight="bold", color=PALETTE["published"])


def _draw_legend(
    figure: Figure,
    table: pd.DataFrame,
    measured: bool,
    background: pd.DataFrame | None,
    references: tuple[Reference, ...],
) -> None:
    height = figure.get_figheight()
    keys: list[Patch | Line2D] = [
        Patch(facecolor=PALETTE["bar"], edgecolor=PALETTE["bar"], label="adopted"),
        Patch(facecolor=PALETTE["side"], edgecolor=PALETTE["bar"], hatch="////", label="measured, not adopted"),
    ]
    if background is not None:
        regime = background.attrs.get("published", "another regime")
        keys.append(Patch(facecolor=PALETTE["behind"], label=f"behind: {regime} regime"))
    if references and not measured:
        label = "published, for comparison"
        keys.append(Line2D([], [], marker="*", ls="", ms=9, color=PALETTE["published"], label=label))
    figure.legend(
        handles=keys, loc="lower left", ncols=len(keys), fontsize=8, bbox_to_anchor=(SECTION_X / WIDTH, 0.12 / height),
        borderaxespad=0, borderpad=0, columnspacing=1.4,
    )  # fmt: skip
    start = wrapped(compared_with(table), LONGEST_TITLE, 1)
    note = f"error bars: ± one standard deviation over seeds; change: from {start}"
    if measured:
        note += ", bold where shown (Holm-corrected p < 0.05)"
    figure.text(1 - 0.3 / WIDTH, 0.16 / height, note, fontsize=8, color=PALETTE["muted"], ha="right")
