"""How fast training images are prepared on one core: our loader, timm's, and one transform per sample.

    python -m benchmarks.input [--case 500x375@224 ...] [--json FILE]

All sides read the same JPEG files, follow the modern recipe without mixup, and end in normalised, randomly erased float
batches on the CPU. A second is one of this process's CPU time: with one thread that is wall time, less what other
processes take. The sides take turns, a batch each, and a ratio is the median of its rounds' ratios.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from timm.data import create_dataset, create_loader, create_transform
from timm.data.auto_augment import NAME_TO_OP
from torch.utils.data import DataLoader

from experiments.config.settings import Data, Recipe
from experiments.data.datasets import Collection
from experiments.data.images import undecoded
from experiments.data.rand_augment import posterize
from experiments.data.readers import load_images
from experiments.data.transforms import Preprocess, TrainingTransform
from experiments.data.workers import BatchLoader
from experiments.runtime.processes import Processes

RECIPE = Recipe(name="modern", interpolation="bicubic", rand_augment="rand-m9-mstd0.5-inc1", random_erasing=0.25)
TIMM = {
    "is_training": True,
    "color_jitter": None,
    "auto_augment": RECIPE.rand_augment,
    "interpolation": RECIPE.interpolation,
    "re_prob": RECIPE.random_erasing,
    "re_mode": RECIPE.erasing_mode,
    "re_count": RECIPE.erasing_count,
}

OURS, REDUCED = "ours", "ours, data.reduced_decoding=true"

Epoch = Callable[[], Iterator[torch.Tensor]]
"""What gives an epoch's batches of normalised images."""


class Case(NamedTuple):
    width: int
    height: int
    resolution: int
    images: int
    batch_size: int

    @property
    def name(self) -> str:
        return f"{self.width}x{self.height}@{self.resolution}"


CASES = {
    case.name: case
    for case in (
        Case(500, 375, 224, images=256, batch_size=64),
        Case(500, 375, 128, images=256, batch_size=64),
        Case(2000, 1500, 224, images=32, batch_size=16),
        Case(2000, 1500, 128, images=32, batch_size=16),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=[*CASES], help="size of the photographs @ pixels")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write every round's images/s here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    NAME_TO_OP["PosterizeIncreasing"] = partial(posterize, NAME_TO_OP["PosterizeIncreasing"])  # else timm's side dies
    rounds = {}
    for case in map(CASES.get, arguments.case):
        with tempfile.TemporaryDirectory() as folder:
            files = make_images(Path(folder), case)
            epochs = {
                OURS: ours(folder, case, reduced=False),
                REDUCED: ours(folder, case, reduced=True),
                "timm create_loader": timm_loader(folder, case, use_prefetcher=False),
                "timm create_loader, prefetcher": timm_loader(folder, case, use_prefetcher=True),
                "timm transform a sample": per_sample(folder, case),
            }
            rounds[case.name] = race(epochs, case, arguments.rounds)
            size = statistics.mean(file.stat().st_size for file in files)
        what = f"{case.images} JPEGs of {case.width}x{case.height}, {size / 1e3:.0f} kB on average"
        Console(width=120).print(tabulate(rounds[case.name], f"{what}, at {case.resolution} px"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rounds, indent=2) + "\n")


def make_images(folder: Path, case: Case) -> list[Path]:
    """JPEGs of quality 90, in the layout of an image folder: like natural images, their amplitude falls with frequency,
    their channels are correlated, and there is sensor noise. So is their size on disk."""
    (folder / "class").mkdir()
    rng = np.random.default_rng(0)
    size = case.height, case.width
    frequency = np.hypot(np.fft.fftfreq(case.height)[:, None], np.fft.rfftfreq(case.width))
    frequency[0, 0] = np.inf  # no constant
    channels = np.array([[0.9, 0.4, 0.15], [0.9, 0.0, -0.3], [0.9, -0.4, 0.15]])  # of brightness and two hues
    files = []
    for index in range(case.images):
        spectrum = np.fft.rfft2(rng.normal(size=(3, *size))) / frequency**1.2
        smooth = np.fft.irfft2(spectrum, size)
        pixels = 128 + 55 * np.tensordot(channels, smooth / smooth.std(), 1) + rng.normal(0, 2, smooth.shape)
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
        files.append(folder / "class" / f"{index:04}.jpg")
        image.save(files[-1], quality=90)
    return files


def ours(folder: str, case: Case, reduced: bool) -> Epoch:
    """The path of a training run, without loader workers."""
    images, _ = load_images(Data(name="photos", reader="folder", path=folder, train="", val=""))
    images = undecoded(images) if reduced else images
    dataset = Collection(images, np.arange(len(images.labels)), TrainingTransform(RECIPE, case.resolution), seed=0)
    device = torch.device("cpu")
    loader, preprocess = BatchLoader(dataset, Processes(device), workers=0), Preprocess(device)
    number = itertools.count()

    def epoch() -> Iterator[torch.Tensor]:
        for batch in loader.load(next(number), torch.arange(len(dataset)).split(case.batch_size)):
            yield preprocess(batch.images, batch.erased)

    return epoch


def timm_loader(folder: str, case: Case, use_prefetcher: bool) -> Epoch:
    loader = create_loader(
        create_dataset("", root=folder),
        (3, case.resolution, case.resolution),
        case.batch_size,
        num_workers=0,
        persistent_workers=False,
        use_prefetcher=use_prefetcher,
        device=torch.device("cpu"),
        **TIMM,
    )
    return lambda: (images for images, _ in loader)


def per_sample(folder: str, case: Case) -> Epoch:
    """As the authors' code does it: everything in the sample's transform, torch's DataLoader."""
    dataset = create_dataset("", root=folder, transform=create_transform(case.resolution, **TIMM))
    loader = DataLoader(dataset, case.batch_size, shuffle=True, drop_last=True)
    return lambda: (images for images, _ in loader)


def race(epochs: dict[str, Epoch], case: Case, rounds: int) -> dict[str, list[float]]:
    """Images/s of every round by name. In a round each side goes through an epoch, all batch by batch in turns; the
    first round isn't counted."""
    rates: dict[str, list[float]] = {name: [] for name in epochs}
    for number in range(rounds + 1):
        running = {name: epoch() for name, epoch in epochs.items()}
        seconds, seen = dict.fromkeys(epochs, 0.0), dict.fromkeys(epochs, 0)
        while seen != dict.fromkeys(epochs, case.images):
            for name, batches in running.items():
                start = time.process_time()
                batch = next(batches)
                seconds[name] += time.process_time() - start
                assert batch.shape[1:] == (3, case.resolution, case.resolution)
                assert batch.dtype == torch.float32
                seen[name] += len(batch)
        for name in epochs if number else ():
            rates[name].append(case.images / seconds[name])
    return rates


def tabulate(rounds: dict[str, list[float]], title: str) -> Table:
    table = Table("", "images/s", "ours is faster by", "with data.reduced_decoding=true by", title=title)
    for name, rates in rounds.items():
        table.add_row(
            name, f"{statistics.median(rates):.0f}", *(faster(rounds[mine], rates) for mine in (OURS, REDUCED))
        )
    return table


def faster(ours: list[float], theirs: list[float]) -> str:
    ratios = [our / their for our, their in zip(ours, theirs, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


if __name__ == "__main__":
    main()
