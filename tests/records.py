"""Synthetic run records, as docs/records.md describes them, for the tests of what reads them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from roadmap.steps import Rung, compose, ladder

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
    "drops": [],
    "drop_factor": 0.1,
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
VERSIONS = {"python": "3.11.9", "torch": "2.9.0", "torchvision": "0.24.0", "timm": "1.0.22", "roadmap": "0.1.0"}


def write_run(
    folder: Path,
    rung: str | None = "gelu",
    *,
    seed: int = 0,
    top1: float | None = None,
    status: str = "done",
    regime: str = "nano",
    config: dict[str, Any] | None = None,
    summary: dict[str, Any] | None = None,
) -> Path:
    """Write one record under `folder` and return its directory.

    `config` and `summary` replace settings, nested ones merged: {"recipe": {"lr": 0.1}}.
    """
    asked = _merge(_config(rung, seed, regime), config or {})
    series = _digest({key: asked[key] for key in asked if key not in ("regime", "rung", "steps", "differs", "seed")})
    identity = _digest({"series": series, "seed": seed})
    results = _merge(_summary(asked, _accuracy(rung, seed) if top1 is None else top1, status), summary or {})
    results = {"identity": identity, "series": series} | results
    run = Path(folder) / f"{regime}-{rung or asked['model'].replace(':', '-')}-seed{seed}-{identity[:8]}"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps(asked, indent=1))
    (run / "summary.json").write_text(json.dumps(results, indent=1))
    (run / "epochs.jsonl").write_text("".join(json.dumps(epoch) + "\n" for epoch in _epochs(asked, results)))
    return run


def write_study(folder: Path, rungs: Iterable[str] = NANO, seeds: Iterable[int] = (0, 1, 2), **changes: Any) -> Path:
    """Write a record for every rung and seed, and return the folder."""
    for rung in rungs:
        for seed in seeds:
            write_run(folder, rung, seed=seed, **changes)
    return folder


def _config(rung: str | None, seed: int, regime: str) -> dict[str, Any]:
    return json.loads(_rung_config(rung, regime)) | {"seed": seed}


@cache
def _rung_config(rung: str | None, regime: str) -> str:
    known = {one.name: one for one in _ladder(regime)}
    steps = known[rung].steps if rung in known else None
    composed = compose(regime, steps or ())
    recipe = RECIPE_DEFAULTS | OmegaConf.to_container(composed.recipe, resolve=True)
    config = {
        "regime": regime,
        "rung": rung,
        "steps": None if steps is None else list(steps),
        "differs": {},
        "model": "design",
        "design": asdict(known[rung if rung in known else "resnet"].design),
        "recipe": recipe | (NANO_RECIPES[recipe["name"]] if regime == "nano" else {}),
        "data": {"name": "fashion_mnist_sample", "num_classes": 10, "subset": 1.0, "holdout": 0.0},
        "resolution": composed.resolution,
        "precision": "float32",
    }
    return json.dumps(config)


def _summary(config: dict[str, Any], top1: float, status: str) -> dict[str, Any]:
    done = status == "done"
    _, macs, params = NANO.get(config["rung"], (0, 5.0, 300.0))
    epochs = config["recipe"]["epochs"]
    return {
        "status": status,
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


@cache
def _ladder(regime: str) -> tuple[Rung, ...]:
    return ladder(regime)


def _both_dicts(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
