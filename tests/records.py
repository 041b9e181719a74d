"""Synthetic run records, as docs/records.md describes them, for the tests of what reads them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from zlib import crc32

from omegaconf import OmegaConf

from roadmap.conf import OURS, regimes
from roadmap.roads import Road

# Top-1 (%), million multiply-adds and thousand parameters that a nano rung might have: plausible, not measured.
NANO = {
    "resnet": (79.6, 6.72, 309.9),
    "modern_recipe": (74.3, 6.72, 310.9),
    "stage_ratio": (75.1, 7.79, 381.7),
    "patchify_stem": (74.2, 6.77, 379.8),
    "depthwise_conv": (72.9, 3.54, 229.5),
    "increase_width": (75.8, 7.82, 506.9),
    "invert_dimensions": (76.6, 6.85, 395.4),
    "move_up_depthwise": (77.9, 6.14, 382.2),
    "kernel_5": (78.4, 6.24, 384.6),
    "kernel_7": (78.3, 6.40, 388.2),
    "kernel_9": (78.6, 6.60, 393.0),
    "kernel_11": (77.7, 6.86, 399.0),
    "gelu": (79.2, 6.40, 388.2),
    "fewer_activations": (80.9, 6.40, 388.2),
    "fewer_norms": (82.2, 6.40, 386.4),
    "layer_norm": (83.1, 6.41, 386.6),
    "separate_downsampling": (84.4, 7.02, 417.9),
}
# What a recipe holds beyond what its file in conf/recipe/ sets: every setting is recorded, used or not.
RECIPE_DEFAULTS = {
    "min_lr": 0.0,
    "momentum": 0.0,
    "betas": [0.9, 0.999],
    "eps": 1e-8,
    "warmup": "0",
    "milestones": [],
    "gamma": 0.1,
    "rand_augment": None,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "label_smoothing": 0.0,
}
# Fixed here, so that tuning conf/regime/nano.yaml moves no test.
NANO_RECIPES = {
    "original": {"epochs": 3, "batch_size": 64, "lr": 0.05},
    "modern": {"epochs": 3, "batch_size": 64, "lr": 4e-3},
}
FOREIGN = RECIPE_DEFAULTS | {"name": "theirs", "epochs": 3, "batch_size": 64, "lr": 0.01, "optimizer": "adamw"}
"""Of a regime that this checkout does not have."""
PROVENANCE = ("regime", "network", "rung", "steps", "differs", "road", "seed", "look", "tuning")
"""What says how a network was asked for, and not which it is."""
VERSIONS = {"python": "3.11.9", "torch": "2.9.0", "torchvision": "0.24.0", "timm": "1.0.22", "roadmap": "0.1.0"}


def write_run(
    folder: Path,
    rung: str | None = "gelu",
    *,
    seed: int = 0,
    top1: float | None = None,
    status: str = "done",
    regime: str = "nano",
    steps: Iterable[str] | None = None,
    road: Road | None = None,
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """Write one record under `folder` and return its directory.

    Its network is that of a rung, or of any `steps`, on the paper's road or another one. `config` and `summary` replace
    settings, nested ones merged: {"recipe": {"lr": 0.1}}.
    """
    road = road or OURS.road(regime=regime)
    if steps is None and rung in road.names:
        steps = road[rung].steps
    asked = _merge(_config(road, steps, regime) | {"seed": seed}, config or {})
    switches = any(key.startswith("design.") for key in asked["differs"])
    rungs = {one.steps: one.name for one in road.rungs}
    if asked["steps"] is not None:
        in_order = road.in_order(asked["steps"])
        asked |= {"steps": list(in_order), "rung": None if switches else rungs.get(in_order)}
        asked["network"] = road.name_of(in_order, asked["differs"])
    else:
        network = asked["model"] if asked["model"] != "design" else asked.get("network", "a design")
        asked |= {"rung": rung, "network": network}
    series = _digest({key: asked[key] for key in asked if key not in PROVENANCE})
    identity = _digest({"series": series, "seed": seed})
    results = _merge(_summary(asked, _accuracy(asked["rung"], seed) if top1 is None else top1, status), summary or {})
    results = {"identity": identity, "series": series} | results
    run = Path(folder) / f"{regime}-{asked['rung'] or asked['model'].replace(':', '-')}-seed{seed}-{identity[:8]}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(asked, indent=1))
    (run / "summary.json").write_text(json.dumps(results, indent=1))
    (run / "epochs.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in _epochs(asked, results)))
    return run


def write_latency(
    folder: Path,
    rung: str = "gelu",
    ms: Mapping[tuple[str, int], Iterable[float]] | None = None,
    *,
    regime: str = "nano",
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """Write a record of the speed of a rung, {(mode, batch size): milliseconds in each round}; return its directory."""
    road = OURS.road(regime=regime)
    asked = _config(road, road[rung].steps, regime) | {"rung": rung, "network": rung, "seed": 0}
    asked |= {"memory_format": "channels_last", "compile": False, "gradient_checkpointing": False}
    ms = {("inference", 1): [2.0, 1.0, 3.0]} if ms is None else ms
    started = "2025-11-22T13:00:00+00:00"
    rows = [{"mode": mode, "batch": batch, "started": started, "ms": [*times]} for (mode, batch), times in ms.items()]
    identity = _digest({key: asked[key] for key in asked if key not in PROVENANCE})
    measured = {
        **{"status": "done", "task": "latency", "identity": identity, "measurements": rows, "classes": 10},
        **{"device": "cpu", "processor": "A processor", "threads": 2, "host": "a-host", "busy": False},
        **{"macs": round(NANO[rung][1] * 1e6), "params": round(NANO[rung][2] * 1e3), "activations": 150_000},
        **{"versions": VERSIONS, "git": None, "started": started, "finished": started},
    }
    directory = Path(folder) / f"latency-{regime}-{rung}-{identity[:8]}"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(json.dumps(_merge(asked, config or {})))
    (directory / "summary.json").write_text(json.dumps(_merge(measured, summary or {})))
    return directory


def write_correct(run: Path, right: Iterable[bool], unread: Iterable[int] = (), images: str = "folder a") -> None:
    """Of a run's record, which images it gets right: correct.json and what summary.json says of them."""
    right, unread = [*right], [*unread]
    count = len(right) - len(unread)
    bits = "".join("1" if one else "0" for one in right).ljust(-(-len(right) // 8) * 8, "0")
    text = "".join(f"{int(bits[place : place + 8], 2):02x}" for place in range(0, len(bits), 8))
    correct = {"images": images, "count": len(right), "unread": unread, "correct": text}
    (run / "correct.json").write_text(json.dumps(correct))
    summary = json.loads((run / "summary.json").read_text())
    top1 = {"top1": 100 * bits.count("1") / count, "evaluation_images": count}
    (run / "summary.json").write_text(json.dumps(summary | top1))


def write_study(folder: Path, rungs: Iterable[str] = NANO, seeds: Iterable[int] = (0, 1, 2), **changes: Any) -> Path:
    """Write a record for every rung and seed, and return the folder."""
    for rung in rungs:
        for seed in seeds:
            write_run(folder, rung, seed=seed, **changes)
    return folder


def road_of(*steps: str, name: str = "mine", **changes: Any) -> Road:
    """A road of one's own: a rung called "start", and one for each step."""
    rungs = [{"name": "start"}, *({"step": step} for step in steps)]
    return Road.from_json({"name": name, "rungs": rungs} | changes)


def extended(*steps: str, regime: str = "nano", name: str = "extended") -> Road:
    """The paper's road, and these steps more, of which nothing was published."""
    paper = OURS.road(regime=regime).to_json()
    more = [{"step": step, "section": "more"} for step in steps]
    return Road.from_json(paper | {"name": name, "title": "", "rungs": [*paper["rungs"], *more]})


def _config(road: Road, steps: Iterable[str] | None, regime: str) -> dict[str, Any]:
    """Of a set of the paper's steps, its own network and recipe; of any other, one that is made up."""
    steps = None if steps is None else road.in_order(steps)
    rung = next((one.name for one in OURS.road().rungs if one.steps == steps), None)
    nearest = rung or ("modern_recipe" if "modern_recipe" in (steps or ()) else "resnet")
    foreign = regime not in regimes()
    config = {"design": {}, "recipe": FOREIGN, "resolution": 32} if foreign else json.loads(_composed(nearest, regime))
    if steps is not None and (foreign or rung is None):
        config["design"]["width"] = crc32(" ".join(steps).encode())
    return config | {
        "regime": regime,
        "road": road.to_json(),
        "steps": None if steps is None else list(steps),
        "differs": {},
        "model": "design",
        "data": {"name": "fashion_mnist_sample", "num_classes": 10, "subset": 1.0, "holdout": 0.0},
        "precision": "float32",
    }


@cache
def _composed(rung: str, regime: str) -> str:
    """What the files of conf/ make of a rung."""
    known = OURS.ladder(regime)
    design = next(one.design for one in known if one.name == rung)
    composed = OURS.compose(regime, OURS.road()[rung].steps)
    recipe = RECIPE_DEFAULTS | OmegaConf.to_container(composed.recipe, resolve=True)
    recipe |= NANO_RECIPES[recipe["name"]] if regime == "nano" else {}
    return json.dumps({"design": asdict(design), "recipe": recipe, "resolution": composed.resolution})


def _summary(config: dict[str, Any], top1: float, status: str) -> dict[str, Any]:
    done = status == "done"
    _, macs, params = NANO.get(config["rung"], (0, 5.0, 300.0))
    epochs = config["recipe"]["epochs"]
    return {
        "status": status,
        "task": "classification",
        "metric": "top1",
        "reason": {"diverged": "loss is nan at epoch 2", "unfinished": "interrupted"}.get(status),
        "top1": top1 if done else 11.0,  # of the last epoch so far: a trap
        "top5": 99.0,
        "val_loss": 0.5,
        "top1_best": top1 + 5,  # another
        "epoch_best": 2,
        "train_images": round(10_000 * config["data"].get("subset", 1) * (1 - config["data"].get("holdout", 0))),
        "evaluation_images": 10_000,
        "evaluated_on": "holdout" if config["data"].get("holdout") else "test",
        "macs": round(macs * 1e6),
        "params": round(params * 1e3),
        "activations": 150_000,
        "images_per_second": round(9000 / macs, 1),
        "train_seconds": 50.0,
        "wall_seconds": 60.0,
        "peak_memory_mb": 700.0,
        "seed": config["seed"],
        "epochs_done": epochs if done else 1,
        "epochs": epochs,
        "started": "2025-11-22T13:00:00+00:00",
        "finished": f"2025-11-22T14:{config['seed'] % 60:02d}:00+00:00" if done else None,
        "device": "cpu",
        "threads": 2,
        "versions": VERSIONS,
        "git": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": False},
    }


def _epochs(config: dict[str, Any], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """A curve that rises to the summary's accuracy."""
    total, final = config["recipe"]["epochs"], summary["top1"]
    return [
        {
            "epoch": epoch,
            "lr": config["recipe"]["lr"] * (1 - epoch / (total + 1)),
            "train_loss": 2.3 / epoch,
            "val_loss": 2.0 / epoch,
            "top1": final - 18 * math.exp(-2.2 * (epoch - 1) / max(total - 1, 1)) * (epoch < total),
            "top5": 99.0,
            "images_per_second": 1500.0,
            "seconds": 20.0,
        }
        for epoch in range(1, summary["epochs_done"] + 1)
    ]


def _accuracy(rung: str | None, seed: int) -> float:
    """The rung's plausible accuracy with a seed's noise of about half a point, the same wherever it runs."""
    noise = int(_digest([rung, seed])[:6], 16) / 0xFFFFFF - 0.5
    return round(NANO.get(rung, (75.0,))[0] + 1.6 * noise, 2)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    nested = {key: _merge(base[key], value) for key, value in changes.items() if _both_dicts(base.get(key), value)}
    return base | changes | nested


def _both_dicts(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
