"""The model card: README.md of an export, which Hugging Face shows. All text from the record is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from scipy.stats import binomtest

from experiments.config.settings import IN_MEMORY, Recipe
from experiments.export.images import resized_to
from experiments.export.run import RunToExport
from roadmap.common.files import printable
from roadmap.network import Network
from roadmap.own import foreign

if TYPE_CHECKING:
    from experiments.export.formats import Export

CONFIDENCE = 0.95
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def model_card(export: Export, formats: Sequence[str], licence: str | None) -> str:
    """The card of an export with files in these formats."""
    run, model = export.run, export.model
    config, summary = run.config, run.summary or {}
    network = model.network
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            front_matter=Markup(_front_matter(run, licence)),
            name=_name(run),
            run=run,
            config=config,
            summary=summary,
            recipe=_recipe(config["recipe"]),
            results=_results(run),
            images_of_results=_evaluated_on(run),
            transform=model.transform,
            resized=resized_to(model.transform),
            classes=model.classes,
            is_ours=isinstance(network, Network),
            own_code=foreign(network.design) if isinstance(network, Network) else [],
            formats=formats,
            smallest=export.traced.smallest if {"torch", "onnx"} & {*formats} else None,
            timm=export.timm_arguments if "timm" in formats else None,
            licence=licence,
        )
    )


def _name(run: RunToExport) -> str:
    return run.config.get("network") or run.config["model"]


def _results(run: RunToExport) -> dict[str, dict[str, float]]:
    """{"top-1": {percent, low, high}, "top-5": ...} of the exported weights with Wilson's interval; {} if not known."""
    summary = run.summary or {}
    results, count = {}, summary.get("evaluation_images")
    if summary.get("status") != "done" or not count:
        return {}
    for name, key in {"top-1": "top1", "top-5": "top5"}.items():
        percent = summary.get(f"ema_{key}" if run.averaged else key)
        if percent is None or not 0 <= percent <= 100:
            continue
        interval = binomtest(round(percent / 100 * count), count).proportion_ci(CONFIDENCE, "wilson")
        results[name] = {"percent": percent, "low": 100 * interval.low, "high": 100 * interval.high}
    return results


def _evaluated_on(run: RunToExport) -> str:
    """Which images the results are of. Only datasets that have test images have their results called so."""
    if (run.summary or {}).get("evaluated_on") == "holdout":
        return "images held out from the training images"
    if run.config["data"].get("reader") in IN_MEMORY:
        return "test images"
    return "validation images"


def _recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Every setting that a recipe has and this one gives."""
    known = [field.name for field in fields(Recipe)]
    return {name: _value(recipe[name]) for name in known if name in recipe}


def _value(value: Any) -> str:
    return printable("none" if value is None else str(value)[:200])


def _front_matter(run: RunToExport, licence: str | None) -> str:
    """The metadata that Hugging Face reads, in YAML."""
    name = _name(run)
    data = run.config["data"]["name"]
    values: dict[str, Any] = {"license": licence or "unknown", "library_name": "convnext-roadmap"}
    values |= {"pipeline_tag": "image-classification", "tags": ["image-classification", "convnext", "ablation"]}
    values |= {"datasets": [data]} if HUB_ID.fullmatch(data) else {}
    values |= {"metrics": ["accuracy"]}
    if results := _results(run):
        metrics = [
            {"type": "accuracy", "name": f"{name} (%)", "value": result["percent"]} for name, result in results.items()
        ]
        task = {"type": "image-classification", "name": "Image classification"}
        dataset = {"type": data, "name": f"{data}, {_evaluated_on(run)}"}
        values |= {"model-index": [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": metrics}]}]}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=math.inf)


def _environment() -> Environment:
    """Whatever a template shows is escaped, unless it is code that the template itself writes."""
    jinja = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_escaped,
    )
    jinja.filters["code"] = lambda value: Markup(repr(value))
    return jinja


def _escaped(value: object) -> str:
    """For Markdown, also within a table's cell."""
    if isinstance(value, Markup):
        return value
    return re.sub(r"([\\`*_{}\[\]<>|#$&~!])", r"\\\1", " ".join(printable(value).split()))
