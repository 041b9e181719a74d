"""What a report says of a comparison, in what order: the one place that decides it. `pages` writes it down."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures
from analysis.measures import VERDICTS, measure
from analysis.report import tables as sheets
from analysis.report.tables import KINDS, SECTION_COSTS, Sheet
from analysis.statistics.comparison import Comparison
from analysis.statistics.costs import FRONTS, cost_table
from analysis.statistics.departures import departures, kernel_note
from analysis.statistics.effects import unpaired
from analysis.statistics.estimates import CONFIDENCE
from analysis.statistics.ladder import included
from analysis.statistics.paper import Agreement, agreement, paper_table, published_ways
from analysis.statistics.provenance import missing, unfinished
from analysis.statistics.shapley import (
    FEW,
    has_sections,
    interaction_table,
    measured_unions,
    shapley_from_orders,
    shapley_table,
)
from analysis.text import equals, interval, percent, signed, step_name, whole
from roadmap.common.words import listed, shortened

NAMED = 6
"""Steps that a sentence names."""
HINTS = 3
"""Steps that it names of those whose interval alone excludes 0."""
POWER = "about four times in five"
"""How often what is `detectable` would be shown."""
BESIDES = 3
"""Steps on no rung that it names: those that are shown come first."""


class Picture(NamedTuple):
    """A figure, and what it shows for those who cannot see it."""

    name: str
    figure: Figure
    description: str


class Part(NamedTuple):
    """A part of a report."""

    name: str
    title: str
    paragraphs: list[str]
    pictures: list[Picture] = []  # noqa: RUF012 - a NamedTuple's defaults, never changed
    sheets: list[Sheet] = []  # noqa: RUF012
    lists: dict[str, list[str]] = {}  # noqa: RUF012
    """Lines under a sentence that introduces them."""


def tell(
    comparison: Comparison, ladder: pd.DataFrame, effects: pd.DataFrame, epochs: pd.DataFrame | None = None
) -> list[Part]:
    """The parts of a comparison's report, those that its runs have something to say about.

    `ladder`: its `ladder_table`; `effects`: its `effect_table`; `epochs`: `Runs.epochs`, for learning curves.
    """
    besides = _besides(comparison, effects)
    walked = [_ladder(ladder)] if is_walked(ladder, besides=bool(besides)) else []
    parts = [*walked, *_images(ladder), *besides]
    if paper_table(ladder)["change"].notna().any():
        parts.append(_paper(ladder))
    parts += [*_steps(comparison, effects), *_sections(comparison), *_costs(comparison, ladder)]
    return [*parts, *_curves(comparison, epochs), *_missing(comparison), *_departures(comparison)]


def is_walked(ladder: pd.DataFrame, *, besides: bool) -> bool:
    """Whether there is something to see on the road: a step of it; or a rung, if there is no effect `besides`."""
    return bool(ladder["change"].notna().any() or ((ladder["n"] > 0).any() and not besides))


def headline(ladder: pd.DataFrame, effects: pd.DataFrame | None = None) -> str:
    """The `findings` as a text."""
    return " ".join(findings(ladder, effects))


def findings(ladder: pd.DataFrame, effects: pd.DataFrame | None = None) -> list[str]:
    """What was found, in a few sentences; never more than the seeds can show: the road's last rung against its first,
    which steps made a difference, which runs diverged. With an `effect_table`, also of the steps that are on no rung.
    """
    ends, besides = ends_sentence(ladder), [] if effects is None else _of_besides(effects)
    changes = ladder[ladder["change"].notna()]
    pairs = {frozenset(pair) for pair in zip(changes["rung"], changes["reference"], strict=True)}
    said = ends and pairs <= {frozenset(_sides(ladder.attrs["ends"]))}
    road = [] if said or (besides and changes.empty) else _of_road(ladder)
    if besides and ladder.attrs.get("by_default"):  # the rungs are there to be added to
        road, besides = besides, road
    return [*filter(None, (ends, *road, *besides, _collapsed(ladder), _diverged(ladder), _provisional(ladder)))]


def ends_sentence(ladder: pd.DataFrame) -> str:
    """The road's last adopted rung against its first, which is a claim of its own; "" unless both are measured."""
    ends = ladder.attrs.get("ends")
    if ends is None:
        return ""
    title = ladder.set_index("rung")["title"]
    last, first = (title[rung] for rung in _sides(ends))
    change = f"{_amount(signed(ends['change']), ladder)}{' among the runs that trained' * ends['survivors']}"
    text = f"From the first rung, “{first}”, to the last, “{last}”: {change}"
    if pd.isna(ends["p"]):
        return f"{text}. {_of_one_seed([ends['verdict']])}that cannot be told from noise: more seeds are needed."
    text += f" (95 % interval {interval(ends['low'], ends['high'])}), "
    if ends["verdict"] in VERDICTS:
        text += f"shown to differ (p {equals(ends['p'])}; a single test, not corrected)"
        if ends.get("other_verdict") == ends["verdict"]:
            return f"{text}, and for other images too ({interval(ends['other_low'], ends['other_high'])})."
        return f"{text}{', but not for other images' * bool(ends.get('other_verdict'))}."
    return f"{text}not distinguishable from zero{_least([ends['detectable']], ladder)}."


def _least(detectable: Iterable[float], ladder: pd.DataFrame) -> str:
    """What these seeds would show, if enough is known of their noise to say."""
    every = pd.Series(detectable)
    known, middle = every.dropna(), every.fillna(math.inf).median()  # the noisiest are those of which it is not said
    if math.isinf(middle):
        return ": so few seeds show very large differences only"
    size, ends = _amount(percent(middle), ladder), [percent(known.min()), percent(known.max())]
    spread = f" (median; {ends[0]} to {ends[1]})" if ends[0] != ends[1] else ""
    unknown = len(every) - len(known)
    but = f", but for {'one' if unknown == 1 else unknown} of them the noise is too uncertain to say" * bool(unknown)
    return f": a true difference of {size}{spread} would be shown {POWER}{but}"


def _sides(ends: dict) -> tuple[str, str]:
    return ends["network"], ends["reference"]


def _amount(number: str, ladder: pd.DataFrame) -> str:
    """With its unit."""
    return f"{number} {measure(ladder.attrs.get('metric', 'top1')).unit}".strip()


def _of_besides(effects: pd.DataFrame) -> list[str]:
    """What steps bring that are on no rung, or were added to other rungs."""
    found = []
    for kind, where in {
        "besides": "Added steps, on no rung of the road",
        "elsewhere": "On other rungs than their own",
    }.items():
        rows = effects[effects["kind"] == kind].to_dict("records")
        rows.sort(key=lambda row: (row["verdict"] not in VERDICTS, -abs(row["effect"])))
        more = f"; and {len(rows) - BESIDES} more" if len(rows) > BESIDES else ""
        found += [f"{where}: {'; '.join(map(_added, rows[:BESIDES]))}{more}."] if rows else []
    return found


def _added(row: dict) -> str:
    ends = "" if pd.isna(row["low"]) else f" ({interval(row['low'], row['high'])})"
    verdict = "shown" if row["verdict"] in VERDICTS else row["verdict"]
    verdict += ", of those that trained" * row["survivors"]
    return f"{row['step']}, added to {row['on']}, {signed(row['effect'])}{ends}, {verdict}"


def _of_road(ladder: pd.DataFrame) -> list[str]:
    """What is shown of the ladder's changes, and what its seeds cannot show."""
    changes = ladder[ladder["change"].notna()]
    if changes.empty and not ladder[["n", "left_out"]].any(axis=None):
        return ["None of these networks is a rung of the road, so there is no step to judge."]
    if changes.empty:
        gone = " or will have: some diverged" * bool(ladder["diverged"].any())
        return [f"No step has finished runs on both sides{gone or ' yet'}, so nothing can be said of any."]
    tested = changes[changes["p"].notna()]
    if tested.empty:
        return [f"{_of_one_seed(changes['verdict'])}no change can be told from noise: more seeds are needed."]
    start = ladder.attrs.get("reference")
    what, does = ("rung", f"differ from “{start}”") if start else ("step", "make a difference")
    is_shown = tested["verdict"].isin(VERDICTS)
    shown, others = tested[is_shown], tested[~is_shown]
    sentences = []
    if len(shown):
        words = [_named(row, f"{signed(row.change)}, {interval(row.low, row.high)}", start) for row in _largest(shown)]
        sentences.append(f"Shown to {does}, with 95 % intervals: {shortened(words, NAMED)}.")
    if len(others):
        if shown.empty:
            which = (
                f"None of the {len(others)} {what}s is" if len(others) > 1 else f"The one {what} that was tested is not"
            )
            which += f" shown to {does}"
        else:
            which = (
                f"The other {len(others)} of {len(tested)} {what}s are" if len(others) > 1 else f"The other {what} is"
            )
            which += (
                " not shown to, which does not mean that they have no effect" if len(others) > 1 else " not shown to"
            )
        sentences.append(f"{which}{_least(others['detectable'], ladder)}.")
    hints = others[(others["low"] > 0) | (others["high"] < 0)]
    if len(hints):
        words = [f"{row.rung if start else step_name(row.title)} {signed(row.change)}" for row in _largest(hints)]
        have = "One of these has" if len(hints) == 1 else f"{len(hints)} of these have"
        chance = f"chance alone gives at most about {(1 - CONFIDENCE) * len(others):.1f}"
        sentences.append(f"{have} an uncorrected interval that excludes 0 ({shortened(words, HINTS)}); {chance}.")
    if unknown := len(changes) - len(tested):
        more = f"one more {what}" if unknown == 1 else f"{unknown} more {what}s"
        sentences.append(f"{_of_one_seed(changes['verdict'][changes['p'].isna()])}{more} cannot be judged.")
    return sentences


def _of_one_seed(verdicts: Iterable[str]) -> str:
    """How a sentence begins that says why these changes have no interval: seeds may agree by coincidence, too."""
    return "With one seed, " if {*verdicts} == {"one seed"} else "With their noise unknown, "


def _largest(rows: pd.DataFrame) -> Iterable[tuple]:
    """The rows, that with the largest change first."""
    return rows.reindex(rows["change"].abs().sort_values(ascending=False).index).itertuples()


def _named(row: tuple, change: str, reference: str | None) -> str:
    """A change and what makes it: the step, or, against a reference, the whole rung."""
    return f"{row.rung if reference else step_name(row.title)} ({change}{', of those that trained' * row.survivors})"


def _collapsed(ladder: pd.DataFrame) -> str:
    rows = ladder[ladder["collapsed"]].itertuples()
    words = [f"{step_name(row.title)} ({percent(row.mean)})" for row in rows]
    return f"Hardly trained, so changes from and to it say little: {shortened(words, NAMED)}." if words else ""


def _provisional(ladder: pd.DataFrame) -> str:
    count = int(((ladder["n"] == 0) & (ladder["left_out"] > ladder["diverged"])).sum())
    if not count:
        return ""
    rungs = f"{count} rungs have" if count > 1 else "one rung has"
    return f"Provisional: {rungs} no finished run yet, and with more changes the correction for their number grows."


def _diverged(ladder: pd.DataFrame) -> str:
    rows = ladder[ladder["diverged"] > 0].itertuples()
    words = [f"{row.n} of {row.n + row.diverged} of {step_name(row.title)}" for row in rows]
    return f"Not every seed trained: {shortened(words, NAMED)}." if words else ""


def agreement_sentence(ladder: pd.DataFrame) -> str:
    """How far the ladder goes the paper's way, in plain words: what is shown here first, agreement in sign last. ""
    where no published change was measured."""
    table, found = paper_table(ladder), agreement(ladder)
    if not found.measured:
        return ""
    told = bool(table["published_noise"].notna().any())
    sentences = []
    if not told:
        sentences = ["The paper gives no standard deviations for this ladder, so none of its changes is clear."]
    sentences.append(_shown_of_published(found, ladder.attrs.get("reference")))
    rest = found.measured - found.shown
    if not found.shown:
        sentences.append("So nothing here confirms or contradicts the paper.")
    else:
        ways = _ways(table, ladder.attrs.get("reference"))
        sentences.append(f"{ways[0].upper()}{ways[1:]}." if told else f"By sign alone, {ways}.")
    if found.shown and rest:
        several = f"{rest} are not shown, so they neither confirm nor contradict"
        one = "one is not shown, so it neither confirms nor contradicts"
        sentences.append(f"The other {one if rest == 1 else several} the paper.")
    if found.judged > 1:
        changes = f"{_part(found.same_sign, found.judged)} changes{' that are clear there' if told else ''}"
        often = "less than 1" if found.chance < 0.01 else f"{100 * found.chance:.0f}"
        chance = f"; if the order of the rungs were random, {often} % of ladders would agree in as many or more"
        chance = chance if found.chance < 0.5 else ", which chance alone would often give"
        either = ", shown or not" if found.shown and rest else ""
        sentences.append(f"The sign is the same in {changes}{either}{chance}.")
    return " ".join(sentences)


def _shown_of_published(found: Agreement, reference: str | None) -> str:
    published, measured, shown = found[:3]
    changes = f"{published} {f'differences from “{reference}”' if reference else 'changes'}"
    if published == 1:
        return f"The one change that the paper published is {'' if shown else 'not '}shown here."
    if measured == published:
        words = {0: "none is", 1: "1 is", measured: "both are" if measured == 2 else "all are"}
        return f"Of the paper’s {changes}, {words.get(shown, f'{shown} are')} shown here."
    if measured == 1:
        return f"Of the paper’s {changes}, 1 is measured here, and it is {'' if shown else 'not '}shown."
    words = {0: "none of them", measured: "both" if measured == 2 else "all of them"}
    few = words.get(shown, f"{shown} of them")
    return f"Of the paper’s {changes}, {measured} are measured here, {few} shown."


def _ways(table: pd.DataFrame, reference: str | None) -> str:
    """Which of the changes that are shown here go the paper's way; and which do not, with their numbers."""
    shown = table.assign(there=published_ways(table))[table["verdict"].isin(VERDICTS)]
    there, here = shown["there"], shown["verdict"]
    alone = there == "about 0"
    nothing = "where the paper finds no clear change"
    groups = [
        (there == here, "goes", "go", "the paper’s way"),
        (~alone & (there != here), "goes", "go", "the opposite way"),
        (alone & (here == "up"), "is a gain", "are gains", nothing),
        (alone & (here == "down"), "is a loss", "are losses", nothing),
    ]
    clauses = []
    for number, (rows, one, several, way) in enumerate(groups):
        steps = [
            (f"{row.rung} against {reference}" if reference else step_name(row.title))
            + ", of those that trained" * row.survivors
            + (f": {signed(row.published_change)} there, {signed(row.change)} here" if number else "")
            for row in shown[rows].itertuples()
        ]
        if steps:
            subject = "it" if len(shown) == 1 else len(steps)
            names = shortened(steps, NAMED, "; ".join) if number else shortened(steps, NAMED)
            clauses.append(f"{subject} {one if len(steps) == 1 else several} {way} ({names})")
    return "; ".join(clauses)


def _part(count: int, total: int) -> str:
    """ "9 of the 12", "all 12", "none of the 12"."""
    if count == total:
        return "both" if total == 2 else f"all {total}"
    return f"{count or 'none'} of the {total}"


def ranks_sentence(found: Agreement) -> str:
    """The rank correlations, or "" where there are too few rungs."""
    if pd.isna(found.tau):
        return ""
    sure = "" if pd.isna(found.tau_low) else " (95 % intervals over the noise of seeds in brackets)"
    brackets = [
        "" if pd.isna(low) else f" [{signed(low)}, {signed(high)}]"
        for low, high in ((found.tau_low, found.tau_high), (found.rho_low, found.rho_high))
    ]
    return (
        f"The order of the rungs: Kendall’s tau {signed(found.tau)}{brackets[0]}, Spearman’s rho "
        f"{signed(found.rho)}{brackets[1]}{sure}; 1 is the paper’s order, 0 no relation, −1 its reverse."
    )


def _ladder(ladder: pd.DataFrame) -> Part:
    what = f"Accuracy by step, {ladder.attrs['scale']}; the table that follows has the numbers"
    picture = Picture("ladder", figures.ladder_figure(ladder), what)
    return Part(
        "ladder",
        "Step by step",
        [_changes_from(ladder)],
        [picture],
        [sheets.ladder_sheet(ladder)],
    )


def _changes_from(ladder: pd.DataFrame) -> str:
    start = ladder.attrs["reference"]
    if not start:
        return f"Changes are from each step’s parent on the road.{_included(ladder)}"
    why = ", as no rung here has its parent measured beside it" * bool(ladder.attrs.get("by_default"))
    return f"Differences are from “{start}”{why}.{_included(ladder)}"


def _included(ladder: pd.DataFrame) -> str:
    count = len(included(ladder))
    return f" {count} of the road’s {len(ladder)} rungs have runs." if count < len(ladder) else ""


def _images(ladder: pd.DataFrame) -> list[Part]:
    """Only where records say which images a run gets right."""
    if ladder["image_error"].isna().all():
        return []
    return [Part("images", "On other images", [images_sentence(ladder)], sheets=[sheets.images_sheet(ladder)])]


def images_sentence(ladder: pd.DataFrame) -> str:
    """What part of a change's noise comes from seeds and what part from images, and how many of the changes that are
    shown on these images are shown for others of the same kind; "" where it is not known."""
    steps = ladder[ladder["image_error"].notna()]
    if steps.empty:
        return ""
    images, of_images, of_seeds = (steps[name].median() for name in ("images", "image_error", "error"))
    margin = NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * of_images
    text = (
        f"The intervals above are the noise of seeds, on these {whole(images)} images. A claim about other images of "
        f"the same kind is less sure: besides the noise of seeds (standard error, median over the changes: "
        f"{percent(of_seeds)} points) there is that of the choice of images (median: {percent(of_images)}), which more "
        f"seeds do not reduce: even with any number of them, intervals would reach about {percent(margin)} points to "
        "each side."
    )
    shown = steps[steps["verdict"].isin(VERDICTS)]
    if shown.empty:
        return text
    lost = [step_name(row.title) for row in shown.itertuples() if row.other_verdict != row.verdict]
    if len(shown) == 1:
        still = "no longer" if lost else "still"
        return f"{text} The change that is shown is {still} shown with the noise of images counted."
    if not lost:
        return f"{text} All {len(shown)} changes that are shown are still shown with the noise of images counted."
    kept = f"{len(shown) - len(lost)} of the {len(shown)} changes that are shown"
    return f"{text} {kept} are still shown with the noise of images counted; not: {listed(lost)}."


def _paper(ladder: pd.DataFrame) -> Part:
    table = paper_table(ladder)
    words = [agreement_sentence(ladder), ranks_sentence(agreement(ladder))]
    picture = Picture("paper", figures.paper_figure(table), "Published change against measured change, a point a step")
    tables = [sheets.paper_sheet(table)]
    if table["published_noise"].notna().any():
        tables.insert(0, sheets.agreement_sheet(table))
    return Part("paper", "Against the paper", [*filter(None, words)], [picture], tables)


def _besides(comparison: Comparison, effects: pd.DataFrame) -> list[Part]:
    """Steps that are on no rung, and steps of the road that were added to other rungs than their own, if any."""
    words = (
        "Each was added to a network that was also trained without it, with everything else the same: the effect is "
        "the difference of the two."
    )
    alone = unpaired(comparison)
    lines = [
        f"Of {listed(alone)} nothing can be said yet: no two networks with finished runs differ in the step alone. "
        "Train the same network without it."
    ]
    titles = {"besides": "Steps that are on no rung of the road", "elsewhere": "Steps on other rungs than their own"}
    parts = []
    for kind, title in titles.items():
        count = int((effects["kind"] == kind).sum())
        what = f"{title}: what each brings, with its interval"
        pictures = [Picture(kind, figures.besides_figure(effects, kind), what)] if count > 1 else []
        tables = [sheets.besides_sheet(effects, kind)] if count else []
        paragraphs = [words] * bool(count) + lines * bool(alone and kind == "besides")
        if paragraphs:
            parts.append(Part(kind, title, paragraphs, pictures, tables))
    return parts


def _steps(comparison: Comparison, table: pd.DataFrame) -> list[Part]:
    """Only if more was asked than the road."""
    if not {*table["kind"]} & {*KINDS} - {"road"}:
        return []
    words = (
        "The road takes the steps in one order. Leave one out asks what the last network loses without a step, add one "
        f"in what a step brings to the rung “{step_name(comparison.road[comparison.road.base].title)}” alone; the mean "
        "over random orders estimates its Shapley value."
    )
    pictures = [Picture("effects", figures.effects_figure(table), "What each step is worth, asked in several ways")]
    orders = shapley_from_orders(comparison)
    if len(orders):
        count, steps = orders["orders"].iloc[0], len(comparison.road.adopted)
        words += f" All {count} orders are measured." if steps <= FEW else f" {count} random orders are measured."
    return [Part("effects", "Which step matters", [words], pictures, [sheets.effects_sheet(table)])]


def _sections(comparison: Comparison) -> list[Part]:
    """Only if they were asked for: of the combinations many are there, and some are no rungs."""
    rungs = {frozenset(rung.steps) for rung in comparison.road.rungs}
    measured = measured_unions(comparison)
    if {*measured} <= rungs or not has_sections(comparison):
        return []
    shapley = shapley_table(comparison)
    if shapley.empty:
        return [Part("sections", "What each section is worth", [f"{shapley.attrs['missing']}."])]
    tables = {value: shapley_table(comparison, value) for value in (comparison.metric, *SECTION_COSTS)}
    heat = figures.interactions_figure(shapley, interaction_table(comparison))
    what = "Shapley values of the road's sections, and the interactions of every two"
    words = (
        "An interaction is what two sections bring together beyond what each brings by itself: below zero they get "
        "in each other’s way, or do the same work twice."
    )
    failed = [steps for steps in measured if steps in comparison.collapsed]
    if failed:
        means = [f"{comparison.road.name_of(steps)}: {percent(comparison.collapsed[steps])}" for steps in failed]
        words += f" Of the {len(measured)} networks, {len(failed)} hardly trained ({shortened(means, NAMED)})."
        if shapley["error"].isna().all():
            words += (
                " One seed does not tell how much such a network scatters, so nothing computed from it has an interval."
            )
    sheet = sheets.sections_sheet({value: table for value, table in tables.items() if len(table)})
    return [Part("sections", "What each section is worth", [words], [Picture("interactions", heat, what)], [sheet])]


def _costs(comparison: Comparison, ladder: pd.DataFrame) -> list[Part]:
    table = cost_table(comparison)
    if table.empty:
        return []
    pictures = [
        Picture(f"pareto-{cost}", figures.pareto_figure(table, cost), f"Accuracy against {figures.COSTS[cost]}")
        for cost in FRONTS
        if cost in ("macs", "images_per_second") and table[cost].notna().any()
    ]
    measured = ladder[ladder["n"] > 0]
    if len(measured) > 1 and measured[["macs", "images_per_second"]].notna().any(axis=None):
        speed = figures.speed_figure(ladder)
        pictures.insert(0, Picture("speed", speed, "Multiply-adds and images a second in training, by rung"))
    words = (
        "Multiply-adds are counted; images a second were measured in training, on the devices named below: a busy "
        "machine shows in them. Means are compared as they are, without regard for their noise."
    )
    return [Part("costs", "What it costs", [words], pictures, [sheets.networks_sheet(table)])]


def _curves(comparison: Comparison, epochs: pd.DataFrame | None) -> list[Part]:
    counted = comparison.counted
    if epochs is None or not (counted["epochs"] > 1).any():  # a curve of one epoch is a point
        return []
    rungs = counted[counted["rung"].notna() & counted["set"].notna()]
    drawn = rungs if len(rungs) else counted
    if not figures.has_curves(drawn, epochs):
        return []
    figure = figures.learning_curves_figure(drawn, epochs)
    return [Part("curves", "Learning curves", [], [Picture("curves", figure, "Accuracy by epoch")])]


def _missing(comparison: Comparison) -> list[Part]:
    lists = {"": missing(comparison), "Runs that are not done, and are in no mean:": unfinished(comparison.runs)}
    lists = {head: lines for head, lines in lists.items() if lines}
    return [Part("missing", "What is missing", [], lists=lists)] if lists else []


def _departures(comparison: Comparison) -> list[Part]:
    found = departures(comparison)
    if not found:
        return []
    same = [recipe for recipe, rows in found.items() if not rows]
    words = [f"The {recipe} recipe is trained as in the paper." for recipe in same]
    note = kernel_note(comparison.context.resolution)
    tables = [sheets.departures_sheet(recipe, rows) for recipe, rows in found.items() if rows]
    return [Part("departures", "Departures from the paper", [*words, *([note] if note else [])], sheets=tables)]
