"""What the page shows of some runs and published weights."""

from __future__ import annotations

from collections.abc import Sequence

from analysis.sources.runs import RecordsError
from experiments.demo.effects import effects_of
from experiments.demo.networks import GREY, DemoNetwork, find_study, of_study, published
from experiments.demo.page import Demo, fashion_mnist_examples
from experiments.errors import SettingsError

CLOTHES = (
    "These networks learned from small grey pictures of clothes on black (Fashion-MNIST) and know nothing else: they find one of ten kinds of clothes "
    "in any picture. Yours is cut to its central square, reduced to {side} pixels and made grey; a piece of clothing, light on a dark ground, is what "
    "suits them."
)
IMAGES = "These networks learned from {dataset}, at {side} pixels. Whatever a picture shows, they find one of their classes in it."
PUBLISHED = "Published weights learned from ImageNet's thousand classes, at the resolution that they were published for."


def demo_of(folders: Sequence[str], weights: Sequence[str], *, trust: bool) -> Demo:
    """Raises:
    RecordsError: if there is nothing to show.
    """
    networks: list[DemoNetwork] = []
    problems: list[str] = []
    facts: dict = {}
    notes = []
    if folders or not weights:
        study = find_study(folders or ["runs"])
        networks, problems = of_study(study, trust=trust)
        is_clothes = study.context.data["name"] in GREY
        text = CLOTHES if is_clothes else IMAGES
        notes.append(text.format(dataset=study.context.dataset, side=study.context.resolution))
        facts = {
            "effects": effects_of(study),
            "about_study": study.context.title,
            "published_regime": f"the size of {study.road.published}",
            "examples": fashion_mnist_examples() if is_clothes else (),
        }
    for source in weights:
        try:
            networks.append(published(source))
        except SettingsError as error:
            problems.append(str(error))
    if not networks:
        raise RecordsError(f"no network can be shown: {'; '.join(problems)}")
    notes += [PUBLISHED] if weights else []
    return Demo(networks, trained_on=" ".join(notes), problems=problems, **facts)
