"""The page: a picture on the left, the road on the right. Everything stays between this machine and its browser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import gradio as gr
import jinja2
import numpy as np
import torch
from PIL import Image

from experiments.data.images import BrokenImageError
from experiments.data.readers.sample import load_sample
from experiments.demo.activation_map import LEAST_SIDE
from experiments.demo.answers import Answer, answer, read_picture
from experiments.demo.effects import Effect
from experiments.demo.networks import DemoNetwork
from experiments.demo.overlay import TILE, data_uri, overlay
from roadmap.common.words import counted

TITLE = "Every rung answers"
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("experiments.demo"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
SECONDS_KEPT = 300
"""How long an uploaded picture stays on the disk, for the browser to show it."""


@dataclass(frozen=True)
class Example:
    """A test image of the dataset, which no network was trained on."""

    image: Image.Image
    label: str

    @cached_property
    def picture(self) -> str:
        return data_uri(self.image)


@dataclass(frozen=True)
class Card:
    """A network with its answer, if there is a picture."""

    number: int
    network: DemoNetwork
    answer: Answer | None
    origin: str
    """The title of the rung that its step starts from, if that is not the network before it."""

    @property
    def picture(self) -> str:
        assert self.answer
        return data_uri(overlay(self.answer.seen, self.answer.map))

    @property
    def description(self) -> str:
        return "where it looked" if self.answer and self.answer.map is not None else "the picture as it saw it"


@dataclass(frozen=True)
class Demo:
    """What the page shows."""

    networks: Sequence[DemoNetwork]
    effects: dict[str, Effect] = field(default_factory=dict)
    """By the name of a rung."""
    lead: str = "Networks with published weights."
    """The page's first sentence: which networks these are."""
    about_study: str = ""
    """Where the effects were measured."""
    published_regime: str = ""
    notes: Sequence[str] = ()
    """What the networks learned from, and what that means for a picture."""
    examples: Sequence[Example] = ()
    problems: Sequence[str] = ()
    """A line about each network that can't be shown."""

    def truth(self, picture: Image.Image) -> str | None:
        """The class of a picture, if it is one of the examples."""
        pixels = np.asarray(picture)
        same = (each.label for each in self.examples if np.array_equal(np.asarray(each.image), pixels))
        return next(same, None)

    def answers(self, picture: Image.Image) -> list[Answer]:
        return [answer(network, picture) for network in self.networks]

    def road(self, answers: Sequence[Answer], chosen: int | None, truth: str | None) -> str:
        """The cards of all networks; `answers` is empty without a picture."""
        shown: Sequence[Answer | None] = answers or [None] * len(self.networks)
        pairs = enumerate(zip(self.networks, shown, strict=True))
        cards = [Card(number, *pair, self._origin(number)) for number, pair in pairs]
        sections = [(name, list(group)) for name, group in groupby(cards, key=lambda card: card.network.section)]
        return _render("road", sections=sections, chosen=chosen, truth=truth, tile=TILE, milliseconds=_milliseconds)

    def _origin(self, number: int) -> str:
        effect = self.effects.get(self.networks[number].rung or "")
        before = self.networks[number - 1].rung if number else None
        return effect.parent_title if effect and effect.parent != before else ""

    def effect(self, chosen: int | None, answers: Sequence[Answer]) -> str:
        """What is known of the step of the chosen network."""
        network = None if chosen is None else self.networks[chosen]
        effect = self.effects.get(network.rung or "") if network else None
        this_picture = ""
        if chosen is not None and effect and answers:
            now = _first(answers[chosen])
            before = next((number for number, each in enumerate(self.networks) if each.rung == effect.parent), None)
            this_picture = f"{now}." if before is None else f"{_first(answers[before])} before, {now} after."
        regime = self.published_regime
        return _render("effect", network=network, effect=effect, this_picture=this_picture, published_regime=regime)


def fashion_mnist_examples() -> list[Example]:
    """The first test image of each class, in the order of the test set."""
    _, test = load_sample()
    assert test.class_names
    first = sorted(int(np.flatnonzero(test.labels == label)[0]) for label in range(test.classes))
    return [Example(test.image(index), test.class_names[test.labels[index]]) for index in first]


def picture_input() -> gr.Image:
    """Where a picture is uploaded or taken: what is uploaded arrives as the path of its file.

    gradio would decode it, whatever its size, and would fetch a picture from an address that it is given. Methods are
    replaced and not overridden, because gradio writes a file beside the module of a subclass.
    """
    picture = gr.Image(
        label="Your picture",
        sources=["upload", "webcam", "clipboard"],
        format="png",  # so that an example stays what it is
        buttons=[],
        height=180,
        elem_id="picture",
    )
    move_file = picture.async_move_resource_to_block_cache

    def path_of(payload: Any) -> Path | None:
        return Path(payload.path) if payload and payload.path else None

    async def move_uploaded_file(path: str | Path | None) -> str | None:
        if "://" in str(path):
            raise gr.Error("a picture is uploaded, not fetched from an address", print_exception=False)
        return await move_file(path)

    vars(picture).update(preprocess=path_of, async_move_resource_to_block_cache=move_uploaded_file)
    return picture


def page(demo: Demo) -> gr.Blocks:
    def respond(path: Path | None, chosen: int | None) -> tuple:
        if path is None:  # the picture was removed
            return without_answers(chosen, "")
        try:
            picture = read_picture(path)
        except BrokenImageError as error:
            return without_answers(chosen, _render("message", text=str(error)))
        answers = demo.answers(picture)
        return demo.road(answers, chosen, demo.truth(picture)), demo.effect(chosen, answers), "", answers

    def without_answers(chosen: int | None, message: str) -> tuple:
        """Those to the picture before would pass for answers to this one."""
        return demo.road([], chosen, None), demo.effect(chosen, []), message, []

    def choose(answers: list[Answer], event: gr.EventData) -> tuple:
        chosen = None if event.number is None else int(event.number)
        return demo.effect(chosen, answers), chosen

    def take_example(event: gr.EventData) -> Image.Image:
        return demo.examples[int(event.number)].image

    threads = counted(torch.get_num_threads(), "thread")
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(60, SECONDS_KEPT)) as blocks:
        answers, chosen = gr.State([]), gr.State(None)
        gr.HTML(_render("intro", lead=demo.lead))
        with gr.Row(elem_id="page"):
            with gr.Column(scale=1, min_width=300, elem_id="left"):
                message = gr.HTML(elem_id="message")
                picture = picture_input()
                examples = gr.HTML(_render("examples", examples=demo.examples), js_on_load=ON_EXAMPLE)
                effect = gr.HTML(demo.effect(None, []), js_on_load=ON_CLOSE, elem_id="effect")
            with gr.Column(scale=3, min_width=300):
                road = gr.HTML(js_on_load=ON_CHOICE, elem_id="road")
                gr.HTML(_render("notes", demo=demo, least_side=LEAST_SIDE, threads=threads))
        # Whatever changes the picture; gradio's event `input` still has the old one when it is removed.
        picture.change(
            respond, [picture, chosen], [road, effect, message, answers], api_name="answer", show_progress_on=picture
        )
        quietly: Any = {"api_visibility": "private", "show_progress": "hidden"}
        road.click(choose, answers, [effect, chosen], **quietly)
        effect.click(choose, answers, [effect, chosen], **quietly)
        examples.click(take_example, None, picture, **quietly)
        if demo.examples:
            blocks.load(lambda: demo.examples[0].image, None, picture, **quietly)
    return blocks.queue(max_size=16, default_concurrency_limit=1)


ON_EXAMPLE = """
element.addEventListener('click', event => {
  const button = event.target.closest('button');
  if (button) trigger('click', {number: Number(button.dataset.number)});
});
"""
ON_CHOICE = """
element.addEventListener('click', event => {
  const button = event.target.closest('button.card');
  if (!button) return;
  const again = button.getAttribute('aria-pressed') === 'true';
  for (const card of element.querySelectorAll('button.card')) card.setAttribute('aria-pressed', 'false');
  button.setAttribute('aria-pressed', String(!again));
  trigger('click', {number: again ? null : Number(button.dataset.number)});
});
"""
ON_CLOSE = """
element.setAttribute('aria-live', 'polite');
element.addEventListener('click', event => {
  if (!event.target.closest('button.close')) return;
  for (const card of document.querySelectorAll('button.card')) card.setAttribute('aria-pressed', 'false');
  trigger('click', {number: null});
});
"""


def _render(name: str, **values: Any) -> str:
    return TEMPLATES.get_template(f"{name}.html.j2").render(**values)


def _first(answer: Answer) -> str:
    name, probability = answer.classes[0]
    return f"{name} ({100 * probability:.0f}\N{NO-BREAK SPACE}%)"


def _milliseconds(value: float) -> str:
    return f"{value:.1f} ms" if value < 10 else f"{value:.0f} ms"
