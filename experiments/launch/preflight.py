"""Checks for what would make a run fail, before anything is forked, submitted or trained: for single runs, for studies
on this machine and on a cluster, and for `experiments.plan`.

They are quick: that the data exist is checked, not that each image can be read. Torch is imported only for timm's
optimizers, for user-defined layers and for images that are to be kept in memory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from experiments.config.dataset_folders import EXTENSIONS, class_folders, files_in
from experiments.config.run import Run
from experiments.config.settings import IN_MEMORY, UNSTATED, Data
from experiments.data.readers import check_folders, check_libraries, load_images
from experiments.errors import SettingsError
from experiments.runtime.machine import compute_capability, no_bf16
from roadmap.designs import DesignError
from roadmap.dotted import find_module, module_of

ANNOTATIONS = "val_annotations.txt"
"""The labels of Tiny ImageNet's evaluation images, which as published are not in class folders."""


class Amounts(NamedTuple):
    """How many images a run trains on and evaluates on, of how many classes; None if not known."""

    training: int | None
    evaluation: int | None
    classes: int | None


def preflight(runs: Iterable[Run], *, gpus: bool, here: bool = True) -> None:
    """Check each different dataset, network, optimizer and device of these runs once. `gpus`: whether they are trained
    on GPUs; `here`: whether on this machine.

    Raises:
        SettingsError: for the first that can't be trained.
    """
    runs = list(runs)
    for run in _different(runs, lambda run: (repr(run.data), run.recipe.batch_size)):
        check_amounts(run, amounts(run.data, enough=run.recipe.batch_size))
        check_cache(run, here=here)
    for run in _different(runs, lambda run: (run.design, run.resolution)):
        check_layers(run)
    for run in _different(runs, lambda run: repr(run.recipe)):
        check_optimizer(run)
    for run in _different(runs, lambda run: (run.device, run.precision, run.sync_batch_norm)):
        check_device(run, gpus=gpus, here=here)


def _different(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> Iterable[Run]:
    """The first of the runs with each key."""
    first: dict[Hashable, Run] = {}
    for run in runs:
        first.setdefault(key(run), run)
    return first.values()


# Data.


def amounts(data: Data, *, enough: int | None = None) -> Amounts:
    """The amounts of a dataset: for folders by counting, otherwise as stated in the settings. Once there are `enough`
    images to train on, folders are only checked for one image per class. Without `enough`, as for a price, amounts that
    are stated are not counted.

    Raises:
        SettingsError: if the data don't exist.
    """
    known = stated(data)
    if data.path == UNSTATED:
        return known
    if enough is not None and (data.subset != 1 or data.holdout) and data.reader not in IN_MEMORY:
        known = Amounts(None, None, known.classes)  # the size of each class decides how many are chosen
    check_libraries(data.reader)
    if data.holdout:  # the held-out images are training images
        data = replace(data, val=data.train)
    location = data.path or "."
    path = Path(location).expanduser()
    parts = [path / part for part in dict.fromkeys((data.train, data.val))]
    is_local = data.reader in ("folder", "tiny_imagenet", "tar") or (data.reader == "wds" and "://" not in location)
    if is_local and not path.is_dir():
        raise SettingsError(f"data.path={data.path} is not a folder")
    if data.reader in ("hfds", "hfids") and location[0] in "/.~" and not path.exists():
        raise SettingsError(f"data.path={data.path} does not exist")
    if data.reader == "tar":
        for part in parts:
            _check_tar(part)
    annotated = any((part / ANNOTATIONS).is_file() for part in parts)
    if (
        data.reader == "folder"
        or (data.reader == "tiny_imagenet" and not annotated)
        or (data.reader == "imagenette" and parts[0].is_dir())
    ):
        return _folders(data, known, enough)
    return known


def stated(data: Data) -> Amounts:
    """The amounts according to the settings, as far as they are set; classes are assumed to be of equal size."""
    training, evaluation, classes = data.train_images, data.val_images, data.num_classes
    if training is None:
        return Amounts(None, None if data.holdout else evaluation, classes)
    size, remainder = divmod(training, classes or 1)
    parts = [_split(size + 1, data)] * remainder + [_split(size, data)] * ((classes or 1) - remainder)
    chosen, held_out = map(sum, zip(*parts, strict=True))
    return Amounts(chosen, held_out if data.holdout else evaluation, classes)


def _split(images: int, data: Data) -> tuple[int, int]:
    """How many of a class's images `partition` chooses to train on, and holds out."""
    held_out = round(images * data.holdout)
    rest = images - held_out
    return min(rest, max(1, round(rest * data.subset))), held_out


def _folders(data: Data, known: Amounts, enough: int | None) -> Amounts:
    check_folders(data)
    root = Path(data.path or ".").expanduser()
    classes = class_folders(os.fsencode(root / data.train))
    counted = enough is None and None not in (known.training, known.evaluation)  # for a price, which needs no folder
    training = held_out = evaluation = 0
    for name in classes:
        satisfied = counted or (enough is not None and training >= enough and (held_out or not data.holdout))
        images = _count(root / data.train, name, whole=not satisfied)
        chosen, unused = _split(images, data)
        training, held_out = training + chosen, held_out + unused
        if not data.holdout:
            evaluation += _count(root / data.val, name, whole=not counted and enough is None)
    if counted:
        return known._replace(classes=len(classes))
    return Amounts(training, held_out if data.holdout else evaluation, len(classes))


def _count(root: Path, name: bytes, *, whole: bool) -> int:
    """The number of images in a class folder; unless `whole`, 1 may stand for any number.

    Raises:
        SettingsError: if there are none.
    """
    if not whole and _begins_with_an_image(root / os.fsdecode(name)):
        return 1
    if files := files_in(os.fsencode(root), name, EXTENSIONS):
        return len(files)
    known = ", ".join(map(os.fsdecode, EXTENSIONS))
    raise SettingsError(f"the class folder {root / os.fsdecode(name)} has no images ({known})")


def _begins_with_an_image(folder: Path) -> bool:
    with suppress(OSError), os.scandir(os.fsencode(folder)) as entries:
        return any(entry.name.lower().endswith(EXTENSIONS) and entry.is_file() for entry in entries)
    return False


def _check_tar(part: Path) -> None:
    if part.with_name(f"{part.name}.tar").is_file():
        return
    if not part.is_dir():
        raise SettingsError(f"there is neither {part}.tar nor a folder {part} of tar files")
    if not any(part.glob("*.tar")):
        raise SettingsError(f"there is no .tar file in {part}")


def check_amounts(run: Run, amounts: Amounts) -> None:
    """Refuse a run without a full step to train, or without an image to evaluate on."""
    if amounts.training is not None and amounts.training < run.recipe.batch_size:
        raise SettingsError(
            f"recipe.batch_size={run.recipe.batch_size} is more than the {amounts.training} training images; "
            "take a smaller batch or more data"
        )
    if amounts.evaluation == 0:
        raise SettingsError(
            f"data.holdout={run.data.holdout} rounds to no image of any class, so there is none to evaluate on; "
            "take a larger part"
            if run.data.holdout
            else "there are no images to evaluate on"
        )


def check_cache(run: Run, *, here: bool) -> None:
    """Check that the images that a run will keep in memory here fit. That lists them, and imports torch."""
    if not run.data.cache or not here or run.data.path == UNSTATED:
        return
    from experiments.data.cache import SameSize, check_room
    from experiments.data.partition import partition

    images: Any = load_images(replace(run.data, val=run.data.train))[0]  # no stream: those are refused with a cache
    chosen = partition(images, run.data).training
    check_room(len(chosen), SameSize(images, chosen).size, run.resolution)


# What trains.


def check_layers(run: Run) -> None:
    """Try the classes that the design names by dotted path on maps like those of its network. That imports them, and
    torch."""
    if run.model != "design" or not run.design.dotted():
        return
    for field, path in run.design.dotted().items():
        try:
            find_module(module_of(path))
        except LookupError as error:
            raise SettingsError(f"design.{field}: {path}: {error}") from error
    from roadmap.own import try_out

    try:
        try_out(run.design, run.resolution)
    except DesignError as error:
        raise SettingsError(f"design.{error}") from error


def check_optimizer(run: Run) -> None:
    """Build a timm optimizer, since timm alone knows which settings it accepts. That imports torch."""
    if run.recipe.optimizer.startswith("timm:"):
        from torch.nn import Linear

        from experiments.training.recipe import make_optimizer

        make_optimizer(run.recipe, Linear(2, 2))


def check_device(run: Run, *, gpus: bool, here: bool = True) -> None:
    """Refuse a device, or a precision, that isn't available."""
    if run.device == "cuda" and not gpus:
        todo = "is not available here; take device=auto" if here else "needs hydra.launcher.gpus_per_node of 1 or more"
        raise SettingsError(f"device=cuda {todo}")
    if run.device == "mps" and here and sys.platform != "darwin":
        raise SettingsError("device=mps is not available here; take device=auto")
    on_gpus = gpus and run.device in ("auto", "cuda")
    if run.sync_batch_norm and run.split.processes > 1 and not on_gpus:
        raise SettingsError("sync_batch_norm=true needs GPUs: torch has it for no other device; set it to false")
    if run.precision == "bf16" and on_gpus and here and (least := compute_capability()) is not None and least < 8:
        raise SettingsError(no_bf16(f"a GPU here of compute capability {least}"))
