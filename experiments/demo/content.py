"""What the page shows of some runs and published weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from analysis.sources.runs import RecordsError
from analysis.statistics.comparison import Comparison
from experiments.demo.effects import effects_of
from experiments.demo.networks import GREY, find_study, of_study, published
from experiments.demo.page import Demo, fashion_mnist_examples
from experiments.errors import SettingsError
from roadmap.common.words import counted
from roadmap.conf import OURS
from roadmap.roads import Road

LEAD = "{road}: each rung of the road is the network before it with one design step more; {count} were trained here."
CLOTHES = (
    "These networks learned from small grey pictures of clothes on black (Fashion-MNIST) and know nothing else: they "
    "find one of ten kinds of clothes in any picture. Yours is cut to its central square, reduced to {side} pixels and "
    "made grey; a piece of clothing, light on a dark ground, is what suits them."
)
IMAGES = (
    "These networks learned from {dataset}, at {side} pixels. Whatever a picture shows, they find one of their classes "
    "in it."
)
PUBLISHED = "Published weights were learned from ImageNet, at a resolution of their own."


def demo_of(folders: Sequence[str], weights: Sequence[str], *, trust: bool) -> Demo:
    """The page of the study in these folders of runs (by default `runs`, unless there are weights), with published
    weights after it.

    Raises:
        RecordsError: if there is nothing to show.
        SettingsError: if weights are not named as they should be.
    """
    demo = _of_study(find_study(folders or ["runs"]), trust=trust) if folders or not weights else Demo([])
    networks, problems = [*demo.networks], [*demo.problems]
    for source in weights:
        try:
            networks.append(published(source))
        except SettingsError as error:
            problems.append(str(error))
    if not networks:
        raise RecordsError(f"no network can be shown: {'; '.join(problems)}")
    notes = [*demo.notes, *([PUBLISHED] if weights else [])]
    return replace(demo, networks=networks, problems=problems, notes=notes)


def _of_study(study: Comparison, *, trust: bool) -> Demo:
    networks, problems = of_study(study, trust=trust)
    is_clothes = study.context.data["name"] in GREY
    text = CLOTHES if is_clothes else IMAGES
    return Demo(
        networks,
        effects_of(study),
        lead=LEAD.format(road=study.road.title, count=counted(len(networks), "network")),
        about_study=study.context.title,
        published_regime=_published_regime(study.road),
        notes=[text.format(dataset=study.context.dataset, side=study.context.resolution)],
        examples=fashion_mnist_examples() if is_clothes else (),
        problems=problems,
    )


def _published_regime(road: Road) -> str:
    """Which networks the published numbers are of, in words."""
    if road.published is None:
        return ""
    try:
        start = OURS.road(road.name, road.published).rungs[0].title
    except ValueError:  # a road or a regime that is not ours
        start = road.published
    return f"ImageNet-1K, networks of the size of {start.split(',')[0]}"
