"""The model card: README.md of an export, which Hugging Face shows. All text from the record is escaped."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from statsmodels.stats.proportion import proportion_confint

from experiments.config.settings import IN_MEMORY, Recipe
from experiments.export.export import Export
from experiments.export.images import resized_to
from experiments.export.run import RunToExport
from roadmap.common.files import printable
from roadmap.network import Network
from roadmap.own import foreign

CONFIDENCE = 0.95
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
HUB_READERS = ("hfds", "hfids")


def model_card(export: Export, formats: Sequence[str], licence: str | None) -> str:
    """The card of an export with files in these formats."""
    run, network = export.run, export.network
    is_ours = isinstance(network, Network)
    return (
        _environment()
        .get_template("card.md.j2")
        .render(
            front_matter=Markup(_front_matter(run, licence)),
            name=_name(run),
            model=None if is_ours else run.config["model"],
            averaged=run.averaged,
            results=_results(run),
            count=_summary(run).get("evaluation_images"),
            evaluated_on=_evaluated_on(run),
            seed=_summary(run).get("seed"),
            training=_training(run, export.model.classes),
            recipe=_recipe(run.config["recipe"]),
            transform=export.model.transform,
            resized=resized_to(export.model.transform),
            classes=export.model.classes,
            class_names=export.class_names,
            own_code=foreign(network.design) if isinstance(network, Network) else [],
            formats=formats,
            smallest=export.traced.smallest if {"torch", "onnx"} & {*formats} else None,
            timm=export.timm_arguments if "timm" in formats else None,
            provenance=_provenance(run),
            licence=licence,
        )
    )


def _summary(run: RunToExport) -> Mapping[str, Any]:
    return run.summary or {}


def _name(run: RunToExport) -> str:
    return run.config.get("network") or run.config["model"]


def _results(run: RunToExport) -> dict[str, dict[str, float]]:
    """{"top-1": {percent, low, high}, "top-5": ...} of the exported weights with Wilson's interval; {} if not known."""
    summary = _summary(run)
    results, count = {}, summary.get("evaluation_images")
    if summary.get("status") != "done" or not count:
        return {}
    for name, key in {"top-1": "top1", "top-5": "top5"}.items():
        percent = summary.get(f"ema_{key}" if run.averaged else key)
        if percent is None or not 0 <= percent <= 100:
            continue
        low, high = proportion_confint(round(percent / 100 * count), count, 1 - CONFIDENCE, "wilson")
        results[name] = {"percent": percent, "low": 100 * low, "high": 100 * high}
    return results


def _evaluated_on(run: RunToExport) -> str:
    """Which images the results are of. Only datasets that have test images have their results called so."""
    if _summary(run).get("evaluated_on") == "holdout":
        return "images held out from the training images"
    if run.config["data"].get("reader") in IN_MEMORY:
        return "test images"
    return "validation images"


def _training(run: RunToExport, classes: int) -> dict[str, str]:
    """{what: text} on how the weights were trained, besides the recipe."""
    config, summary = run.config, _summary(run)
    steps, differs, version = config.get("steps"), config.get("differs"), config["data"].get("version")
    facts = {"Steps": ", ".join(map(_text, steps)) if isinstance(steps, list) and steps else "none"}
    if isinstance(differs, dict) and differs:
        facts["Besides"] = ", ".join(f"{_text(name)}={_text(value)}" for name, value in differs.items())
    data = [config["data"]["name"], *([f"version {_text(version)}"] if version else ())]
    data += [f"{count:,} training images"] if (count := summary.get("train_images")) else []
    facts["Data"] = ", ".join([*data, f"{classes} classes", f"{config['resolution']} px"])
    if epochs := summary.get("epochs_done"):
        facts["Epochs"] = str(epochs)
    if regime := config.get("regime"):
        facts["Regime"] = _text(regime)
    return facts


def _provenance(run: RunToExport) -> dict[str, str]:
    """{what: text} on where the weights come from."""
    summary, facts = _summary(run), {}
    git, versions = summary.get("git"), summary.get("versions")
    if isinstance(git, dict) and git.get("commit"):
        facts["Commit of convnext-roadmap"] = _text(git["commit"]) + (
            ", with local changes" if git.get("dirty") else ""
        )
    if isinstance(versions, dict):
        facts["Versions"] = ", ".join(f"{_text(name)} {_text(version)}" for name, version in versions.items())
    if device := summary.get("device"):
        facts["Trained on"] = f"{device}, {_text(run.config.get('precision'))}"
    if identity := summary.get("identity"):
        facts["The run's identity"] = identity
    return facts | {"SHA-256 of the run's weights": str(run.weights.digest)}


def _recipe(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Every setting that a recipe has and this one gives."""
    known = [field.name for field in fields(Recipe)]
    return {name: _text(recipe[name]) for name in known if name in recipe}


def _text(value: Any) -> str:
    return "none" if value is None else printable(value)[:200]


def _front_matter(run: RunToExport, licence: str | None) -> str:
    """The metadata that Hugging Face reads, in YAML."""
    name = _name(run)
    data = run.config["data"]["name"]
    values: dict[str, Any] = {"license": licence or "unknown", "library_name": "convnext-roadmap"}
    values |= {"pipeline_tag": "image-classification", "tags": ["image-classification", "convnext", "ablation"]}
    is_on_hub = run.config["data"].get("reader") in HUB_READERS and HUB_ID.fullmatch(data)
    values |= {"datasets": [data]} if is_on_hub else {}  # else the name may be another's there
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
