"""What a comparison shows, in sentences that never claim more than its seeds can show."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist
from typing import Any

import pandas as pd

from analysis.measures import VERDICTS, measure
from analysis.statistics.estimates import CONFIDENCE, ONE_SEED, SOME_STOPPED
from analysis.statistics.paper import Agreement, agreement, paper_table, published_ways
from analysis.text import equals, interval, percent, signed, step_name, whole
from roadmap.common.words import listed, shortened

MOST_STEPS = 6
"""How many steps a sentence names at most."""

MOST_HINTS = 3
"""How many at most of the steps that are not shown although their interval excludes 0."""

MOST_ADDED = 3
"""How many at most of the steps that are on no rung; those that are shown come first."""

POWER = "about four times in five"
"""How often an effect as large as `detectable` would be shown."""


def headline(ladder: pd.DataFrame, effects: pd.DataFrame | None = None) -> str:
    """The `findings` as a text."""
    return " ".join(findings(ladder, effects))


def findings(ladder: pd.DataFrame, effects: pd.DataFrame | None = None) -> list[str]:
    """The findings in a few sentences, which never claim more than the seeds can show: the road's last rung compared
    with its first, which steps made a difference, which runs diverged or were stopped. With an `effect_table`, also the
    steps that are on no rung.
    """
    ends, added = ends_sentence(ladder), [] if effects is None else _added_findings(effects)
    changes = ladder[ladder["change"].notna()]
    pairs = {frozenset(pair) for pair in zip(changes["rung"], changes["reference"], strict=True)}
    only_ends = ends and pairs <= {frozenset(_rungs_of(ladder.attrs["ends"]))}
    road = [] if only_ends or (added and changes.empty) else _road_findings(ladder)
    if added and ladder.attrs.get("by_default"):  # the rungs were trained for the steps that were added to them
        road, added = added, road
    negligible = _negligible_findings(ladder, effects)
    caveats = (caveat(ladder) for caveat in (_collapsed, _diverged, _stopped, _provisional))
    return [*filter(None, (ends, *road, *added, *negligible, *caveats))]


def ends_sentence(ladder: pd.DataFrame) -> str:
    """Compares the road's last adopted rung with its first, a claim of its own; "" unless both are measured."""
    ends = ladder.attrs.get("ends")
    if ends is None:
        return ""
    last, first = (ladder.attrs["titles"][rung] for rung in _rungs_of(ends))
    change = f"{_amount(signed(ends['change']), ladder)}{' among the runs that finished' * ends['survivors']}"
    text = f"From the first rung, “{first}”, to the last, “{last}”: {change}"
    if pd.isna(ends["p"]):
        return f"{text}. {untested([ends['verdict']], 'that cannot')}"
    text += f" (95 % interval {interval(ends['low'], ends['high'])}), "
    if ends["verdict"] in VERDICTS:
        looks = ladder.attrs.get("looks", 1)
        correction = f"corrected for {looks} planned looks alone" if looks > 1 else "not corrected"
        text += f"shown to differ (p {equals(ends['p_holm'])}; a single test, {correction})"
        if ends.get("other_verdict") == ends["verdict"]:
            return f"{text}, and for other images too ({interval(ends['other_low'], ends['other_high'])})."
        return f"{text}{', but not for other images' * bool(ends.get('other_verdict'))}."
    return f"{text}not distinguishable from zero{_detectable(pd.Series([ends['detectable']]), ladder)}."


def _detectable(sizes: pd.Series, ladder: pd.DataFrame) -> str:
    """How large a difference these seeds would show, as far as their noise is known."""
    known, median = sizes.dropna(), sizes.fillna(math.inf).median()  # unknown where the noise is largest
    if math.isinf(median):
        return ": so few seeds show very large differences only"
    size, low, high = _amount(percent(median), ladder), percent(known.min()), percent(known.max())
    spread = f" (median; {low} to {high})" if low != high else ""
    unknown = len(sizes) - len(known)
    but = f", but for {'one' if unknown == 1 else unknown} of them the noise is too uncertain to say" * bool(unknown)
    return f": a true difference of {size}{spread} would be shown {POWER}{but}"


def _rungs_of(ends: dict) -> tuple[str, str]:
    return ends["network"], ends["reference"]


def _amount(number: str, ladder: pd.DataFrame) -> str:
    """With its unit."""
    return f"{number} {measure(ladder.attrs.get('metric', 'top1')).unit}".strip()


def _negligible_findings(ladder: pd.DataFrame, effects: pd.DataFrame | None) -> list[str]:
    """Which changes are shown to be negligible, and which are shown neither way; for tables with a margin."""
    if ladder.attrs.get("margin") is None:
        return []
    start = ladder.attrs.get("reference")
    names = [rung if start else step_name(title) for rung, title in zip(ladder["rung"], ladder["title"], strict=True)]
    families = {"": ladder.assign(name=names)}
    for kind, where in {"leave_one_out": "Leaving one out: ", "add_one_in": "Adding one in: "}.items():
        if effects is not None:
            rows = effects[effects["kind"] == kind].rename(columns={"effect": "change"})
            families[where] = rows.assign(name=rows["title"].map(step_name))
    return [_negligible(where, rows, ladder) for where, rows in families.items()]


def _negligible(where: str, rows: pd.DataFrame, ladder: pd.DataFrame) -> str:
    tested = rows[rows["p_negligible"].notna()]
    if tested.empty:
        return ""
    margin = _amount(f"±{ladder.attrs['margin']:g}", ladder)
    small, shown = tested["negligible"].astype(bool), tested["verdict"].isin(VERDICTS)
    noise = ", for other seeds on these images" + ", not for other images" * bool(ladder["image_error"].notna().any())

    def named(chosen: pd.Series) -> str:
        return shortened([f"{row.name_} ({signed(row.change)})" for row in rows_of(chosen)], MOST_STEPS)

    def rows_of(chosen: pd.Series) -> Iterable[Any]:
        return tested[chosen].rename(columns={"name": "name_"}).itertuples()

    parts = [f"Shown to be negligible, within {margin}{noise}: {named(small) if small.any() else 'none'}"]
    if (small & shown).any():
        parts.append(f"of these, shown to make a difference all the same, though a small one: {named(small & shown)}")
    if (~small & ~shown).any():
        parts.append(f"not shown either way: {named(~small & ~shown)}")
    text = f"{'; '.join(parts)}."
    return where + text[0].lower() + text[1:] if where else text


def _added_findings(effects: pd.DataFrame) -> list[str]:
    """The effects of steps that are on no rung, or were added to other rungs than their own."""
    sentences = []
    for kind, where in {
        "besides": "Added steps, on no rung of the road",
        "elsewhere": "On other rungs than their own",
    }.items():
        rows = effects[effects["kind"] == kind].to_dict("records")
        rows.sort(key=lambda row: (row["verdict"] not in VERDICTS, -abs(row["effect"])))
        more = f"; and {len(rows) - MOST_ADDED} more" if len(rows) > MOST_ADDED else ""
        sentences += [f"{where}: {'; '.join(map(_added, rows[:MOST_ADDED]))}{more}."] if rows else []
    return sentences


def _added(row: dict) -> str:
    bounds = "" if pd.isna(row["low"]) else f" ({interval(row['low'], row['high'])})"
    verdict, negligible = "shown" if row["verdict"] in VERDICTS else row["verdict"], bool(row.get("negligible"))
    verdict = "" if negligible and verdict != "shown" else verdict
    verdict += ", but" * (negligible and row["verdict"] in VERDICTS) + " negligible" * negligible
    verdict += ", of those that finished" * row["survivors"]
    return f"{row['step']}, added to {row['on']}, {signed(row['effect'])}{bounds}, {verdict}"


def _road_findings(ladder: pd.DataFrame) -> list[str]:
    """Which of the ladder's changes are shown, and what its seeds cannot show."""
    changes = ladder[ladder["change"].notna()]
    if changes.empty and not ladder[["n", "left_out"]].any(axis=None):
        return ["None of these networks is a rung of the road, so there is no step to judge."]
    if changes.empty:
        why = listed(word for word in ("diverged", "stopped") if ladder[word].any()).replace("stopped", "were stopped")
        ever = f" or will have: some {why}" if why else ""
        return [f"No step has finished runs on both sides{ever or ' yet'}, so nothing can be said about any."]
    tested = changes[changes["p"].notna()]
    if tested.empty:
        return [untested(changes["verdict"], "no change can")]
    start = ladder.attrs.get("reference")
    step = "change" if ladder.attrs.get("gaps") else "step"
    what, does = ("rung", f"differ from “{start}”") if start else (step, "make a difference")
    is_shown = tested["verdict"].isin(VERDICTS)
    shown, rest = tested[is_shown], tested[~is_shown]
    sentences = []
    if len(shown):
        words = [_named(row, f"{signed(row.change)}, {interval(row.low, row.high)}", start) for row in _largest(shown)]
        sentences.append(f"Shown to {does}, with 95 % intervals: {shortened(words, MOST_STEPS)}.")
    if len(rest):
        several = len(rest) > 1
        if shown.empty:
            which = f"None of the {len(rest)} {what}s is" if several else f"The one {what} that was tested is not"
            which += f" shown to {does}"
        else:
            which = f"The other {len(rest)} of {len(tested)} {what}s are" if several else f"The other {what} is"
            which += f" not shown to {'differ' if start else 'make a difference'}"
            which += ", which does not mean that they have no effect" * several
        sentences.append(f"{which}{_detectable(rest['detectable'], ladder)}.")
    hints = rest[(rest["low"] > 0) | (rest["high"] < 0)]
    if len(hints):
        words = [f"{row.rung if start else step_name(row.title)} {signed(row.change)}" for row in _largest(hints)]
        have = "One of these has" if len(hints) == 1 else f"{len(hints)} of these have"
        chance = f"chance alone gives at most about {(1 - CONFIDENCE) * len(rest):.1f}"
        sentences.append(f"{have} an uncorrected interval that excludes 0 ({shortened(words, MOST_HINTS)}); {chance}.")
    if unknown := len(changes) - len(tested):
        more = f"one more {what}" if unknown == 1 else f"{unknown} more {what}s"
        sentences.append(f"{_without_noise(changes['verdict'][changes['p'].isna()])}{more} cannot be judged.")
    return sentences


def untested(verdicts: Iterable[str], what: str) -> str:
    """A sentence on changes without an interval, and what would help. `what`: "that cannot", or "no change can"."""
    if {*verdicts} == {SOME_STOPPED}:
        return f"{_without_noise(verdicts)}{what} be judged: those have to be trained to the end."
    return f"{_without_noise(verdicts)}{what} be told from noise: more seeds are needed."


def _without_noise(verdicts: Iterable[str]) -> str:
    """The start of a sentence on changes without an interval: one seed, runs that were stopped, or equal results of
    several seeds by chance."""
    if {*verdicts} == {SOME_STOPPED}:
        return "With some of their runs stopped early, "
    return "With one seed, " if {*verdicts} == {ONE_SEED} else "With their noise unknown, "


def _largest(rows: pd.DataFrame) -> Iterable[Any]:
    """The rows in descending order of the size of their change."""
    return rows.reindex(rows["change"].abs().sort_values(ascending=False).index).itertuples()


def _named(row: Any, change: str, reference: str | None) -> str:
    """The name of what changed, and the change: the step or, compared with a reference, the whole rung."""
    return f"{row.rung if reference else step_name(row.title)} ({change}{', of those that finished' * row.survivors})"


def _collapsed(ladder: pd.DataFrame) -> str:
    rows = ladder[ladder["collapsed"]].itertuples()
    words = [f"{step_name(row.title)} ({percent(row.mean)})" for row in rows]
    return f"Hardly trained, so changes from and to it say little: {shortened(words, MOST_STEPS)}." if words else ""


def _provisional(ladder: pd.DataFrame) -> str:
    count = int(((ladder["n"] == 0) & (ladder["left_out"] > ladder["diverged"] + ladder["stopped"])).sum())
    if not count:
        return ""
    rungs = f"{count} rungs have" if count > 1 else "one rung has"
    return f"Provisional: {rungs} no finished run yet, and with more changes the correction for their number grows."


def _stopped(ladder: pd.DataFrame) -> str:
    rows = ladder[ladder["stopped"] > 0].itertuples()
    words = [f"{row.stopped} of {row.n + row.diverged + row.stopped} of {step_name(row.title)}" for row in rows]
    return f"Stopped early, for being far below the finished runs: {shortened(words, MOST_STEPS)}." if words else ""


def _diverged(ladder: pd.DataFrame) -> str:
    rows = ladder[ladder["diverged"] > 0].itertuples()
    words = [f"{row.n} of {row.n + row.diverged + row.stopped} of {step_name(row.title)}" for row in rows]
    return f"Not every seed trained: {shortened(words, MOST_STEPS)}." if words else ""


def agreement_sentence(ladder: pd.DataFrame) -> str:
    """How far the ladder agrees with the paper, in plain words: first the changes that are shown here, last the
    agreement in sign. "" where no published change was measured."""
    table, agreed = paper_table(ladder), agreement(ladder)
    if not agreed.measured:
        return ""
    has_noise = bool(table["published_noise"].notna().any())
    sentences = []
    if not has_noise:
        sentences = ["The paper gives no standard deviations for this ladder, so none of its changes is clear."]
    sentences.append(_shown_of_published(agreed, ladder.attrs.get("reference")))
    rest = agreed.measured - agreed.shown
    if not agreed.shown:
        sentences.append("So nothing here confirms or contradicts the paper.")
    else:
        ways = _ways(table, ladder.attrs.get("reference"))
        sentences.append(f"{ways[0].upper()}{ways[1:]}." if has_noise else f"By sign alone, {ways}.")
    if agreed.shown and rest:
        several = f"{rest} are not shown, so they neither confirm nor contradict"
        single = "one is not shown, so it neither confirms nor contradicts"
        sentences.append(f"The other {single if rest == 1 else several} the paper.")
    if agreed.judged > 1:
        changes = (
            f"{_part(agreed.same_sign, agreed.judged)} changes{' that are clear in the paper' if has_noise else ''}"
        )
        often = "less than 1" if agreed.chance < 0.01 else f"{100 * agreed.chance:.0f}"
        chance = f"; if the order of the rungs were random, {often} % of ladders would agree in as many or more"
        chance = chance if agreed.chance < 0.5 else ", which chance alone would often give"
        either = ", shown or not" if agreed.shown and rest else ""
        sentences.append(f"The sign is the same in {changes}{either}{chance}.")
    return " ".join(sentences)


def _shown_of_published(agreed: Agreement, reference: str | None) -> str:
    published, measured, shown = agreed.published, agreed.measured, agreed.shown
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
    unclear = there == "about 0"
    no_change = "where the paper finds no clear change"
    groups = [
        (there == here, "goes", "go", "the paper’s way"),
        (~unclear & (there != here), "goes", "go", "the opposite way"),
        (unclear & (here == "up"), "is a gain", "are gains", no_change),
        (unclear & (here == "down"), "is a loss", "are losses", no_change),
    ]
    clauses = []
    for number, (rows, singular, plural, way) in enumerate(groups):
        steps = [
            (f"{row.rung} against {reference}" if reference else step_name(row.title))
            + ", of those that finished" * row.survivors
            + (f": {signed(row.published_change)} there, {signed(row.change)} here" if number else "")
            for row in shown[rows].itertuples()
        ]
        if steps:
            count = "it" if len(shown) == 1 else len(steps)
            names = shortened(steps, MOST_STEPS, "; ".join) if number else shortened(steps, MOST_STEPS)
            clauses.append(f"{count} {singular if len(steps) == 1 else plural} {way} ({names})")
    return "; ".join(clauses)


def _part(count: int, total: int) -> str:
    """ "9 of the 12", "all 12", "none of the 12"."""
    if count == total:
        return "both" if total == 2 else f"all {total}"
    return f"{count or 'none'} of the {total}"


def ranks_sentence(ranks: Agreement) -> str:
    """The rank correlations, or "" where there are too few rungs."""
    if pd.isna(ranks.tau):
        return ""
    intervals = "" if pd.isna(ranks.tau_low) else " (95 % intervals over the noise of seeds in brackets)"
    brackets = [
        "" if pd.isna(low) else f" [{signed(low)}, {signed(high)}]"
        for low, high in ((ranks.tau_low, ranks.tau_high), (ranks.rho_low, ranks.rho_high))
    ]
    return (
        f"The order of the rungs: Kendall’s tau {signed(ranks.tau)}{brackets[0]}, Spearman’s rho "
        f"{signed(ranks.rho)}{brackets[1]}{intervals}; 1 is the paper’s order, 0 no relation, −1 its reverse."
    )


def images_sentence(ladder: pd.DataFrame) -> str:
    """How much of a change's noise comes from seeds and how much from images, and how many of the changes that are
    shown on these images are also shown for other images of the same kind; "" where that is unknown."""
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
