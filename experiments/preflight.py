"""What would make a run fail, found before anything is forked, submitted or trained: of single runs, of studies on this
machine and on a cluster, and by `experiments.plan`.

It sees what can be seen quickly and without torch: that data are there, not that each of their images can be read.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from experiments.errors import SettingsError
from experiments.images import TORCHVISION, check_folders, needs
from experiments.machine import compute_capability
from experiments.run import Run
from experiments.settings import UNSTATED, Data

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Of image files, torchvision's."""


class Amounts(NamedTuple):
    """How many images a run trains on and evaluates on, of how many classes; None is not known."""

    training: int | None
    evaluation: int | None
    classes: int | None


def preflight(runs: Iterable[Run], *, gpus: bool, here: bool = True) -> None:
    """Look at each different dataset, optimizer and device of these runs once. `gpus`: whether they are trained on
    GPUs; `here`: whether on this machine.

    Raises:
        SettingsError: for the first that can't be trained.
    """
    looked_at = set()
    for run in runs:
        data, batch = repr(run.data), run.recipe.batch_size
        if (data, batch) not in looked_at:
            check_amounts(run, amounts(run.data, enough=batch))
        optimizer = run.recipe.optimizer, repr(run.recipe.betas), run.recipe.momentum, run.recipe.eps
        if optimizer not in looked_at:
            check_optimizer(run)
        device = run.device, run.precision, run.sync_batch_norm
        if device not in looked_at:
            check_device(run, gpus=gpus, here=here)
        looked_at |= {(data, batch), optimizer, device}


# Data.


def amounts(data: Data, *, enough: int | None = None) -> Amounts:
    """Of folders as they lie there, of others as stated. Once there are `enough` to train on, or where it is stated how
    many there are, one image a class is all that is looked for, and the rest is not counted.

    Raises:
        SettingsError: if the data aren't there.
    """
    known = stated(data)
    if data.path == UNSTATED:
        return known
    if data.reader == "folder":
        # what is evaluated on held-out images needs no others
        return _folders(replace(data, val=data.train) if data.holdout else data, known, enough)
    if data.reader == "torchvision" and data.name not in TORCHVISION:
        raise SettingsError(f"data.reader=torchvision has {', '.join(TORCHVISION)}; not data.name={data.name!r}")
    if data.reader in ("wds", "hfds", "hfids"):
        needs("webdataset" if data.reader == "wds" else "datasets", data.reader)
    if data.reader in ("tar", "wds") and "://" not in data.path and not Path(data.path).expanduser().is_dir():
        raise SettingsError(f"data.path={data.path} is not a folder")
    if data.reader == "tar":
        for part in (data.train,) if data.holdout else (data.train, data.val):
            _check_tar(Path(data.path).expanduser(), part)
    if data.reader in ("hfds", "hfids") and data.path[0] in "/.~" and not Path(data.path).expanduser().exists():
        raise SettingsError(f"data.path={data.path} does not exist")
    return known


def stated(data: Data) -> Amounts:
    """As the settings say, if they do; classes are taken to be equally large."""
    training, evaluation, classes = data.train_images, data.val_images, data.num_classes
    if training is None:
        return Amounts(None, None if data.holdout else evaluation, classes)
    each, left = divmod(training, classes or 1)
    counts = {each + 1: left, each: (classes or 1) - left}
    chosen, held_out = (sum(of_each * many for of_each, many in sizes) for sizes in _split(counts, data))
    return Amounts(chosen, held_out if data.holdout else evaluation, classes)


def _split(counts: dict[int, int], data: Data) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """[(images of a class, classes)] that `data.split` chooses and holds out, of {images of a class: classes}."""
    chosen, held_out = [], []
    for images, classes in counts.items():
        cut = round(images * data.holdout)
        held_out.append((cut, classes))
        chosen.append((min(images - cut, max(1, round((images - cut) * data.subset))), classes))
    return chosen, held_out


def _folders(data: Data, known: Amounts, enough: int | None) -> Amounts:
    check_folders(data)
    root = Path(data.path).expanduser()
    classes = sorted(entry.name for entry in os.scandir(root / data.train) if entry.is_dir())
    counted = None not in (known.training, known.evaluation)
    training = held_out = evaluation = 0
    for name in classes:
        satisfied = counted or (enough is not None and training >= enough and (held_out or not data.holdout))
        images = _count(root / data.train / name, 1 if satisfied else None)
        (chosen,), (held,) = ([size for size, _ in sizes] for sizes in _split({images: 1}, data))
        training, held_out = training + chosen, held_out + held
        if not data.holdout:
            evaluation += _count(root / data.val / name, 1 if counted or enough is not None else None)
    found = Amounts(training, held_out if data.holdout else evaluation, len(classes))
    return known._replace(classes=len(classes)) if counted else found


def _count(folder: Path, most: int | None) -> int:
    """Images anywhere in a class folder, at most `most`.

    Raises:
        SettingsError: if there are none.
    """
    count = sum(1 for _ in islice(_images(folder), most))
    if not count:
        raise SettingsError(f"the class folder {folder} has no images ({', '.join(EXTENSIONS)})")
    return count


def _images(folder: Path) -> Iterator[str]:
    for _, _, files in os.walk(folder, followlinks=True):
        yield from (file for file in files if file.lower().endswith(EXTENSIONS))


def _check_tar(path: Path, part: str) -> None:
    if (path / f"{part}.tar").is_file():
        return
    if not (path / part).is_dir():
        raise SettingsError(f"there is neither {path / part}.tar nor a folder {path / part} of tar files")
    if not any((path / part).glob("*.tar")):
        raise SettingsError(f"there is no .tar file in {path / part}")


def check_amounts(run: Run, found: Amounts) -> None:
    """Refuse a run without a full step to train, or without an image to evaluate on."""
    if found.training is not None and found.training < run.recipe.batch_size:
        raise SettingsError(
            f"recipe.batch_size={run.recipe.batch_size} is more than the {found.training} training images; "
            "take a smaller batch or more data"
        )
    if found.evaluation == 0:
        raise SettingsError(
            f"data.holdout={run.data.holdout} rounds to no image of any class, so there is none to evaluate on; "
            "take a larger part"
            if run.data.holdout
            else "there are no images to evaluate on"
        )


# What trains.


def check_optimizer(run: Run) -> None:
    """Build what timm builds, which alone knows what its optimizers take. That imports torch."""
    if run.recipe.optimizer.startswith("timm:"):
        from torch.nn import Linear

        from experiments.recipe import make_optimizer

        make_optimizer(run.recipe, Linear(2, 2))


def check_device(run: Run, *, gpus: bool, here: bool = True) -> None:
    """Refuse a device, or a precision, that isn't there."""
    if run.device == "cuda" and not gpus:
        todo = "is not available here; take device=auto" if here else "needs hydra.launcher.gpus_per_node of 1 or more"
        raise SettingsError(f"device=cuda {todo}")
    if run.device == "mps" and here and sys.platform != "darwin":
        raise SettingsError("device=mps is not available here; take device=auto")
    on_gpus = gpus and run.device in ("auto", "cuda")
    if run.sync_batch_norm and run.split.processes > 1 and not on_gpus:
        raise SettingsError("sync_batch_norm=true needs GPUs: torch has no other; leave it false")
    if run.precision == "bf16" and on_gpus and here and (least := compute_capability()) is not None and least < 8:
        raise SettingsError(no_bf16(f"a GPU here of compute capability {least}"))


def no_bf16(device: str) -> str:
    return f"precision=bf16, which precision=auto is on GPUs, is not what {device} has; take precision=fp16 or float32"
