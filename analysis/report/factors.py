"""What a report says of a crossed study: which switch mattered, how they depend on each other, the best network."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis import figures
from analysis.measures import VERDICTS, measure
from analysis.report.findings import MOST_STEPS, POWER, findings, untested
from analysis.report.section import Picture, Section
from analysis.report.tables import DETECTABLE, Cell, Column, ReportTable, for_looks, number_cell
from analysis.statistics.crossing import Factor, Network
from analysis.statistics.estimates import SOME_STOPPED
from analysis.statistics.factors import NOT_ESTIMABLE, Best, Factorial
from analysis.text import chance, in_words, interval, percent, signed
from roadmap.common.words import counted, listed, shortened

MOST_PAIRS = 6
"""How many pairs of factors have tables at most."""


def factor_sections(factorial: Factorial | None) -> list[Section]:
    """None of them without a crossed study."""
    if factorial is None:
        return []
    return [_main_effects(factorial), *_two_way(factorial), *_best(factorial)]


def factor_findings(factorial: Factorial) -> list[str]:
    """Which switches are shown to matter, whether they depend on each other, and which network is the best."""
    sentences = _effect_sentences(factorial)
    if len(factorial.factors) > 1:
        sentences += _interaction_sentences(factorial)
    if best := factorial.best:
        sentences.append(_best_sentence(factorial, best))
    return [*sentences, *_trouble(factorial)]


def chapter_findings(ladder: pd.DataFrame, effects: pd.DataFrame | None, factorial: Factorial | None) -> list[str]:
    """The findings on a crossed study, and those on the ladder and on added steps, unless all of these are in it."""
    if factorial is None:
        return findings(ladder, effects)
    sentences = factor_findings(factorial)
    if holds_ladder(factorial, ladder):
        return sentences
    return sentences + findings(ladder, None if effects is None else outside(factorial, effects))


def holds_ladder(factorial: Factorial, ladder: pd.DataFrame) -> bool:
    """Whether all rungs that have runs are in the crossed study, so that the ladder says nothing more."""
    rungs = ladder["rung"][(ladder["n"] > 0) | (ladder["left_out"] > 0)]
    road = factorial.comparison.road
    return all(frozenset(road[rung].steps) in factorial.networks for rung in rungs)


def outside(factorial: Factorial, effects: pd.DataFrame) -> pd.DataFrame:
    """An `effect_table` without the steps that were added to one network of the crossed study to make another."""
    name_of = factorial.comparison.road.name_of
    sets = {name_of(network): network for network in factorial.networks if not isinstance(network, str)}
    added = effects["kind"].isin(("besides", "elsewhere"))
    inside = [
        on in sets and sets[on] | {step} in factorial.networks
        for on, step in zip(effects["on"], effects["step"], strict=True)
    ]
    return effects[~(added & pd.Series(inside, effects.index, dtype=bool))]


def _main_effects(factorial: Factorial) -> Section:
    several = len(factorial.factors) > 1
    names = listed(factor.name for factor in factorial.factors)
    levels = listed(str(len(factor.levels)) for factor in factorial.factors)
    text = f"{counted(len(factorial.networks), 'network')}: " + (
        f"{names} were crossed, with {levels} levels. An effect is the difference between the means of two levels, "
        "over all levels of the other switches, each with the same weight. What holds on average need not hold at "
        "each level: the next section says where it does not."
        if several
        else f"{names} was changed, with {levels} levels and everything else the same."
    )
    paragraphs = [text]
    if missing := [factorial.levels(network) for network in factorial.networks if network not in factorial.scores]:
        names = shortened(missing, MOST_STEPS, "; ".join)
        paragraphs.append(f"Without a finished run, so that the others stand for them where they can: {names}.")
    pictures = [
        Picture(
            f"factor-{number}",
            figures.factor_figure(factorial, factor.name),
            f"The mean {measure(factorial.value).name} at each level of {factor.name}, with intervals of differences",
        )
        for number, factor in enumerate(factorial.factors, 1)
    ]
    title = "Which switch mattered" if several else f"What {factorial.factors[0].name} is worth"
    return Section("factors", title, paragraphs, pictures, [_effects_table(factorial)])


def _effect_sentences(factorial: Factorial) -> list[str]:
    """Which effects are shown; then, of each factor without any, what was seen and what would have been shown."""
    table = factorial.effects
    tested = table[table["p"].notna()]
    if table["effect"].isna().all():
        return ["Too few networks have finished runs to compare the levels of any switch."]
    unknown = table[table["p"].isna() & (table["level"] != table["reference"])]
    if {*table["verdict"][table["effect"].notna()]} == {SOME_STOPPED}:
        return _cannot_be_judged(unknown, "no effect of a switch can")
    if tested.empty:
        largest = table.reindex(table["effect"].abs().sort_values(ascending=False).index).head(1)
        seen = [f" The largest is {_effect(factorial, row)}." for row in largest.itertuples()]
        single = [network for network in factorial.measured if len(factorial.scores[network]) == 1]
        names = shortened([factorial.levels(network) for network in single], MOST_STEPS, "; ".join)
        start = f"With one seed of {names}" if single else "With their noise unknown"
        start = "With one seed" if len(single) == len(factorial.measured) else start
        return [f"{start}, no effect of a switch can be told from noise: more seeds are needed.{''.join(seen)}"]
    average = {1: "", 2: ", averaged over the other switch"}.get(
        len(factorial.factors), ", averaged over the other switches"
    )
    sentences = []
    by_size = tested.reindex(tested["effect"].abs().sort_values(ascending=False).index)
    shown = [_effect(factorial, row) for row in by_size[by_size["verdict"].isin(VERDICTS)].itertuples()]
    if shown:
        what = _unit(factorial) + "with 95 % intervals"
        sentences.append(f"Shown to matter{average}, {what}: {shortened(shown, MOST_STEPS, '; '.join)}.")
    judged = [factor for factor in factorial.factors if (tested["factor"] == factor.name).any()]
    silent = [factor for factor in judged if not _shown(tested, factor)]
    none = len(silent) > 1 and not shown
    if none:
        which = "switches" if len(judged) == len(factorial.factors) else "switches that can be judged"
        sentences.append(f"None of the {len(silent)} {which} is shown to matter{average}.")
    for factor in silent:
        rows = by_size[by_size["factor"] == factor.name]
        words = [_effect(factorial, row).removeprefix(f"{factor.name} ") for row in rows.itertuples()]
        power = _detectable(factorial, rows["detectable"], "a true effect")
        start = f"{factor.name}{'' if none else ' is not shown to matter'}"
        sentences.append(f"{start}: {shortened(words, MOST_STEPS, '; '.join)}{power}.")
    for _, rows in unknown.groupby("verdict", sort=False):
        names = shortened([factorial.change(row) for row in rows.itertuples()], MOST_STEPS)
        sentences += _cannot_be_judged(rows, f"{'the effect' if len(rows) == 1 else 'the effects'} of {names} cannot")
    return sentences


def _cannot_be_judged(rows: pd.DataFrame, what: str) -> list[str]:
    """A sentence for each reason why numbers have no p. `what`: "no effect can"."""
    return [
        f"Without a finished run of some networks, {what} be estimated."
        if verdict == NOT_ESTIMABLE
        else untested([verdict], what)
        for verdict in dict.fromkeys(rows["verdict"])
    ]


def _detectable(factorial: Factorial, sizes: pd.Series, what: str) -> str:
    """How large a number these seeds would show."""
    if sizes.isna().any():
        return "; so few seeds show very large ones only"
    unit = measure(factorial.value).unit
    return f"; {what} of {f'{percent(sizes.median())} {unit}'.strip()} would be shown {POWER}"


def _shown(table: pd.DataFrame, factor: Factor) -> bool:
    return bool((table["verdict"].isin(VERDICTS) & (table["factor"] == factor.name)).any())


def _effect(factorial: Factorial, row: Any) -> str:
    """ "kernel_size 7 against 3 +2.66 (+1.05 to +4.28)"."""
    bounds = "" if pd.isna(row.low) else f" ({interval(row.low, row.high)})"
    return f"{factorial.change(row)} {signed(row.effect)}{bounds}"


def _trouble(factorial: Factorial) -> list[str]:
    """Networks that diverged, were stopped, or hardly trained."""
    comparison = factorial.comparison
    diverged = [factorial.levels(network) for network in factorial.networks if comparison.diverged[network]]
    stopped = [
        f"{count} of {count + comparison.diverged[network] + len(factorial.scores.get(network, ()))} of "
        f"{factorial.levels(network)}"
        for network in factorial.networks
        if (count := comparison.stopped[network])
    ]
    failed = [factorial.levels(network) for network in factorial.measured if network in comparison.collapsed]
    sentences = []
    if diverged:
        names = shortened(diverged, MOST_STEPS, "; ".join)
        sentences.append(f"Not every seed trained, and the numbers are of those that did: {names}.")
    if stopped:
        names = shortened(stopped, MOST_STEPS, "; ".join)
        sentences.append(
            f"Stopped early, for being far below the finished runs: {names}. The mean of the other runs is too high, "
            "so the best network was chosen without these."
        )
    if failed:
        names = shortened(failed, MOST_STEPS, "; ".join)
        sentences.append(f"Hardly trained, so effects that contain it say little: {names}.")
    return sentences


def _effects_table(factorial: Factorial) -> ReportTable:
    table = factorial.effects
    columns = [Column("switch", True), Column("level", True), Column("networks")]
    columns += [Column(f"mean{measure(factorial.value).percent}"), *_judged_columns("effect")]
    rows = [
        [
            Cell(row.factor, row.Index),
            Cell(row.level, row.Index),
            Cell(str(row.n), row.n),
            number_cell(row.mean, percent(row.mean)),
            *_judged(row, row.effect),
        ]
        for row in table.itertuples()
    ]
    count = int(table["p"].notna().sum())
    note = (
        f"An effect is from the reference, {_unit(factorial)}with a 95 % interval, not corrected. Seeds are paired "
        f"where all networks have the same. It is shown if p, corrected for the number of effects ({count}; Holm)"
        f"{for_looks(table)}, is below 0.05; {DETECTABLE}."
    )
    return ReportTable("factors", columns, rows, table, note)


def _two_way(factorial: Factorial) -> list[Section]:
    """How the effects of every two factors depend on each other."""
    table = factorial.interactions
    if table.empty:
        return []
    smallest = table.fillna({"p": 1.0}).groupby(["factor", "other"], sort=False)["p"].min().sort_values(kind="stable")
    pairs = [(factorial.factor(factor), factorial.factor(other)) for factor, other in smallest.index]
    tables = []
    for number, (factor, other) in enumerate(pairs[:MOST_PAIRS], 1):
        if len(factor.levels) < len(other.levels):
            factor, other = other, factor  # long tables rather than wide ones
        tables += [_two_way_table(factorial, factor, other, number), _simple_table(factorial, factor, other, number)]
    text = (
        "For every pair of switches: their means at each pair of levels, and the interactions. An interaction is the "
        "effect of a level minus its effect where the other switch has its reference level: 0 if the two effects add "
        "up. Below, the effect of each level at each level of the other switch."
    )
    more = len(pairs) - MOST_PAIRS
    paragraphs = [text] + [f"{counted(more, 'pair')} of switches, whose interactions have larger p, have no table."] * (
        more > 0
    )
    title = "How the switches depend on each other"
    return [Section("two-way", title, paragraphs, tables=tables)]


def _interaction_sentences(factorial: Factorial) -> list[str]:
    table = factorial.interactions
    tested, unknown = table[table["p"].notna()], table[table["p"].isna()]
    if tested.empty:
        return _cannot_be_judged(unknown, "whether the switches depend on each other cannot")
    sentences = [_tested_interactions(factorial, tested)]
    for _, rows in unknown.groupby("verdict", sort=False):
        sentences += _cannot_be_judged(rows, f"{counted(len(rows), 'more interaction')} cannot")
    return sentences


def _tested_interactions(factorial: Factorial, tested: pd.DataFrame) -> str:
    by_size = tested.reindex(tested["interaction"].abs().sort_values(ascending=False).index)
    shown = by_size[by_size["verdict"].isin(VERDICTS)]
    if len(shown):
        words = [
            f"{factorial.change(row)} brings {signed(row.interaction)} "
            f"({interval(row.low, row.high)}) with {factorial.factor(row.other).at(row.other_level)} beyond what it "
            f"brings with {factorial.factor(row.other).at(row.other_reference)}"
            for row in shown.itertuples()
        ]
        return f"Shown to depend on each other: {shortened(words, MOST_STEPS, '; '.join)}."
    bounds = interval(by_size["low"].iloc[0], by_size["high"].iloc[0])
    largest = f"the largest of {len(tested)} is {signed(by_size['interaction'].iloc[0])}, {bounds}"
    power = _detectable(factorial, tested["detectable"], "an interaction")
    return f"No interaction is shown ({largest}), which does not mean that effects add up{power}."


def _two_way_table(factorial: Factorial, factor: Factor, other: Factor, number: int) -> ReportTable:
    """Means at every two levels, and the interactions."""
    simple = factorial.simple_effects
    simple = simple[(simple["factor"] == factor.name) & (simple["other"] == other.name)]
    means = simple.set_index(["level", "other_level"])["mean"]
    table = factorial.interactions
    of_pair = table[table["factor"].isin((factor.name, other.name)) & table["other"].isin((factor.name, other.name))]
    turned = bool((of_pair["factor"] == other.name).all())
    by_levels = of_pair.set_index(["other_level", "level"] if turned else ["level", "other_level"])
    mean = f"mean{measure(factorial.value).percent}"
    columns = [Column(factor.name, True)]
    columns += [Column(other.named(level), group=mean) for level in other.levels]
    for level in other.others:
        group = f"with {other.at(level)}"
        columns += [Column(head, group=group) for head in ("interaction", "95 % interval", "p (Holm)")]
    rows = []
    for index, level in enumerate(factor.levels):
        cells = [Cell(level, index)]
        cells += [number_cell(means[level, at], percent(means[level, at])) for at in other.levels]
        for at in other.others:
            if level == factor.reference:
                cells += [Cell("reference"), Cell("–"), Cell("–")]
                continue
            row = by_levels.loc[(level, at)]
            style = row["verdict"] if row["verdict"] in VERDICTS else ""
            cells.append(number_cell(row["interaction"], signed(row["interaction"]), style))
            cells.append(number_cell(row["low"], interval(row["low"], row["high"])))
            cells.append(number_cell(row["p_holm"], chance(row["p_holm"])))
        rows.append(cells)
    averaged = ", averaged over the remaining switches" * (len(factorial.factors) > 2)
    note = (
        f"{factor.name} by {other.name}{averaged}. Interactions are {_unit(factorial)}from the references "
        f"“{factor.reference}” and “{other.reference}”; in colour: shown, with p < 0.05 after Holm’s correction for "
        f"the number of interactions of all switches ({len(table)}){for_looks(table)}."
    )
    return ReportTable(f"two-way-{number}", columns, rows, of_pair, note)


def _simple_table(factorial: Factorial, factor: Factor, other: Factor, number: int) -> ReportTable:
    """The effect of each level at each level of the other factor, in both orders."""
    table = factorial.simple_effects
    table = table[table["factor"].isin((factor.name, other.name)) & table["other"].isin((factor.name, other.name))]
    table = table[table["level"] != table["reference"]].reset_index(drop=True)
    columns = [Column("change", True), Column("at", True), Column(f"mean{measure(factorial.value).percent}")]
    columns += _judged_columns("effect")
    rows = [
        [
            Cell(factorial.change(row), row.Index),
            Cell(factorial.factor(row.other).at(row.other_level), row.Index),
            number_cell(row.mean, percent(row.mean)),
            *_judged(row, row.effect),
        ]
        for row in table.itertuples()
    ]
    note = (
        f"Effects are {_unit(factorial)}with 95 % intervals, not corrected. The verdict follows p, corrected for the "
        f"number of effects of the same switch in this table (Holm){for_looks(table)}."
    )
    return ReportTable(f"simple-effects-{number}", columns, rows, table, note)


def _best(factorial: Factorial) -> list[Section]:
    best = factorial.best
    if best is None:
        return []
    text = (
        f"It was chosen among {best.among} by the numbers that are to judge it. So it is compared with each other one, "
        f"with p corrected for all {best.among * (best.among - 1) // 2} pairs of networks (Holm), as any could have "
        "been the best. Its own mean is biased upwards by the choice, the more so the less the networks differ: runs "
        "with new seeds would give one that is not."
    )
    title = "The best network, and how sure that is"
    return [Section("best", title, [text], tables=[_best_table(factorial, best)])]


def _best_sentence(factorial: Factorial, best: Best) -> str:
    unit = measure(factorial.value).percent.strip(" ()")
    text = (
        f"Best mean of {best.among} networks: {factorial.levels(best.network)} ({percent(best.mean)} {unit}".rstrip()
        + "), "
    )
    rivals, shown = [factorial.levels(network) for network in best.rivals["network"]], len(best.shown)
    if best.differences["p"].isna().all():
        return f"{text}with no noise to judge it by: more seeds are needed."
    if not rivals:
        return f"{text}shown to be better than all others. Its mean is biased upwards by the choice."
    if not shown:
        text += "but not shown to be better than any other"
    elif len(rivals) > MOST_STEPS:
        text += f"shown to be better than {shown} of the others; not distinguishable from the other {len(rivals)}"
    else:
        text += f"shown to be better than {shown} of the others; not distinguishable from {'; '.join(rivals)}"
    return f"{text}. Its mean is biased upwards by the choice: new seeds would tell."


def _best_table(factorial: Factorial, best: Best) -> ReportTable:
    table = best.differences
    columns = [Column(factor.name, True) for factor in factorial.factors]
    columns += [Column("seeds"), Column(f"mean{measure(factorial.value).percent}")]
    columns += _judged_columns("best minus this")
    scores = factorial.scores

    def start(network: Network, mean: float) -> list[Cell]:
        levels = [(factor, factor.level_of[network]) for factor in factorial.factors]
        cells = [Cell(level, factor.levels.index(level)) for factor, level in levels]
        return [*cells, Cell(str(len(scores[network])), len(scores[network])), Cell(percent(mean), mean)]

    rows = [[*start(best.network, best.mean), Cell("best"), *[Cell("–")] * 4]]
    rows += [[*start(row.network, row.mean), *_judged(row, row.difference)] for row in table.itertuples()]
    named = table.assign(network=[factorial.comparison.name(network) for network in table["network"]])
    note = (
        f"Differences are {_unit(factorial)}with 95 % intervals, which are not corrected for the choice; p and the "
        f"verdict are{for_looks(table)}."
    )
    return ReportTable("best", columns, rows, named, note)


def _judged_columns(what: str) -> list[Column]:
    heads = [Column(head) for head in (what, "95 % interval", "p (Holm)", "detectable")]
    return [*heads, Column("verdict", True)]


def _judged(row: Any, value: float) -> list[Cell]:
    """The cells of a number that `compare` judged."""
    style = row.verdict if row.verdict in VERDICTS else ""
    return [
        number_cell(value, signed(value), style),
        number_cell(row.low, interval(row.low, row.high)),
        number_cell(row.p_holm, chance(row.p_holm)),
        number_cell(row.detectable, percent(row.detectable)),
        Cell(in_words(row.verdict, False), row.verdict, style),
    ]


def _unit(factorial: Factorial) -> str:
    unit = measure(factorial.value).unit
    return f"in {unit}, " if unit else ""
