"""Every image once, in batches that depend on the seed and the epoch and on nothing else."""

import gzip
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from experiments.config.batch_plan import split_batch
from experiments.config.run import Run
from experiments.config.settings import Data
from experiments.data.batch import Batch
from experiments.data.evaluation import Evaluation
from experiments.data.images import ArrayImages
from experiments.data.loader import Loader
from experiments.data.partition import partition
from experiments.data.readers import load_images
from experiments.data.readers.sample import SAMPLE
from experiments.data.transforms import Preprocess, evaluation_transform
from experiments.errors import SettingsError
from experiments.runtime.processes import Processes
from experiments.training.tasks.classification import evaluate

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PARTS = {"train": "train", "test": "t10k"}
CPU = torch.device("cpu")
ALONE = Processes(CPU)

needs_idx_files = pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")


def idx(part: str, kind: str) -> np.ndarray:
    """One of the original files, read plainly: a header of 8 or 16 bytes, then the bytes themselves."""
    header, shape = {"images": (16, (-1, 28, 28)), "labels": (8, (-1,))}[kind]
    name = f"{PARTS[part]}-{kind}-idx{len(shape)}-ubyte.gz"
    return np.frombuffer(gzip.decompress((DEBIAN / name).read_bytes()), np.uint8, offset=header).reshape(shape)


@pytest.fixture(scope="module")
def sample() -> dict[str, np.ndarray]:
    with np.load(SAMPLE, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def modern(run_of: Callable, tiny: tuple[str, ...]) -> Run:
    return run_of(*tiny, "regime=resnet50", "recipe=modern", "resolution=32")  # a regime may take from the recipe


def test_sample_is_balanced_and_whole(sample: dict[str, np.ndarray]) -> None:
    assert {name: (array.shape, array.dtype) for name, array in sample.items()} == {
        "train_images": ((10_000, 28, 28), np.uint8),
        "train_labels": ((10_000,), np.uint8),
        "test_images": ((10_000, 28, 28), np.uint8),
        "test_labels": ((10_000,), np.uint8),
    }
    for part in PARTS:
        assert np.bincount(sample[f"{part}_labels"]).tolist() == [1000] * 10


@needs_idx_files
def test_sample_is_taken_from_the_original_files(sample: dict[str, np.ndarray]) -> None:
    """Of the training images the first thousand of each class, in their order; of the test images all."""
    labels = idx("train", "labels")
    seen, chosen = [0] * 10, []
    for index, label in enumerate(labels):
        if seen[label] < 1000:
            chosen.append(index)
        seen[label] += 1
    np.testing.assert_array_equal(sample["train_labels"], labels[chosen])
    np.testing.assert_array_equal(sample["train_images"], idx("train", "images")[chosen])
    np.testing.assert_array_equal(sample["test_labels"], idx("test", "labels"))
    np.testing.assert_array_equal(sample["test_images"], idx("test", "images"))


@needs_idx_files
def test_whole_dataset_is_read_from_the_original_files(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for file in DEBIAN.glob("*.gz"):
        shutil.copy(file, raw)
        (raw / file.stem).write_bytes(gzip.decompress(file.read_bytes()))
    parts = load_images(Data("fashion_mnist", "torchvision", str(tmp_path)))
    for part, images in zip(PARTS, parts, strict=True):
        np.testing.assert_array_equal(images.labels, idx(part, "labels"))
        np.testing.assert_array_equal(images.pixels, idx(part, "images"))


def test_dataset_that_cannot_be_had_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("Error downloading train-images-idx3-ubyte.gz")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", refuse)
    with pytest.raises(SettingsError) as error:
        load_images(Data("fashion_mnist", "torchvision", str(tmp_path)))
    assert str(tmp_path / "FashionMNIST" / "raw") in str(error.value)
    assert "could not be downloaded" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("subset", "holdout", "trained", "held_out"),
    [(1.0, 0.0, 1000, 0), (0.1, 0.0, 100, 0), (1.0, 0.2, 800, 200), (0.5, 0.2, 400, 200), (0.00001, 0.0, 1, 0)],
)
def test_split_is_balanced_and_disjoint(
    subset: float, holdout: float, trained: int, held_out: int, sample: dict[str, np.ndarray]
) -> None:
    labels = sample["train_labels"]
    chosen, rest = partition(ArrayImages(sample["train_images"], labels), Data(subset=subset, holdout=holdout))
    assert np.bincount(labels[chosen], minlength=10).tolist() == [trained] * 10
    assert np.bincount(labels[rest], minlength=10).tolist() == [held_out] * 10
    assert len({*chosen, *rest}) == len(chosen) + len(rest)


def test_every_seed_trains_on_the_same_images(modern: Run) -> None:
    one, other = Loader(modern, ALONE), Loader(replace(modern, seed=1), ALONE)
    np.testing.assert_array_equal(one.training.dataset.indices, other.training.dataset.indices)
    np.testing.assert_array_equal(one.evaluation.dataset.indices, other.evaluation.dataset.indices)
    assert not set(one.training.dataset.indices) & set(one.evaluation.dataset.indices)


def test_held_out_images_stay_out_of_every_subset(sample: dict[str, np.ndarray]) -> None:
    images = ArrayImages(sample["train_images"], sample["train_labels"])
    _, all_of_it = partition(images, Data(subset=1.0, holdout=0.2))
    _, of_subset = partition(images, Data(subset=0.1, holdout=0.2))
    np.testing.assert_array_equal(all_of_it, of_subset)


@pytest.mark.parametrize("size", [1, 249, 250, 251, 503])
def test_evaluation_counts_every_image_once(size: int, modern: Run) -> None:
    """A network that answers with the position of a marked pixel knows what the accuracy must be."""
    loader = Loader(modern, ALONE)
    pixels = np.zeros((size, 28, 28), np.uint8)
    pixels[np.arange(size), 10, np.arange(size) % 10] = 255
    labels = np.where(np.arange(size) % 3 == 0, np.arange(size) % 10, (np.arange(size) + 1) % 10)
    images = ArrayImages(pixels, labels)
    loader.evaluation = Evaluation(images, None, evaluation_transform(32, "bicubic"), ALONE, 0)

    class Marked(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, 12, 2:12]  # 28 pixels centred in 32

    for _ in range(2):  # the second time from memory
        seen = [sample for batch in loader.evaluation.batches() for _, sample in batch.samples]
        assert seen == list(range(size))
        [result] = evaluate([Marked()], loader.evaluation.batches(), Preprocess(CPU), ALONE)
        assert result["top1"] == pytest.approx(100 * len(range(0, size, 3)) / size)


def test_outcomes_are_in_the_order_of_the_images(modern: Run) -> None:
    """Of held-out images, whose numbers have gaps; by a network that knows which it should get right."""
    right = np.random.default_rng(0).random(600) < 0.7
    pixels = np.zeros((600, 28, 28), np.uint8)
    pixels[np.arange(600), 10, np.where(right, 0, 1)] = 255
    images, held_out = ArrayImages(pixels, np.zeros(600, np.int64)), np.flatnonzero(np.arange(600) % 7)
    evaluation = Evaluation(images, held_out, evaluation_transform(32, "bicubic"), ALONE, 0)

    class Marked(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images[:, 0, 12, 2:12]  # 28 pixels centred in 32

    correct = evaluation.correct_images()
    evaluate([Marked()], evaluation.batches(), Preprocess(CPU), ALONE, correct_images=correct)
    result = correct.to_json(ALONE)
    bits = np.unpackbits(np.frombuffer(bytes.fromhex(result["correct"]), np.uint8), count=result["count"])
    np.testing.assert_array_equal(bits, right[held_out])
    assert result["unread"] == []
    other = Evaluation(images, held_out[1:], evaluation_transform(32, "bicubic"), ALONE, 0).correct_images()
    other.add([1, 2], torch.tensor([True, False]))
    assert other.to_json(ALONE)["images"] != result["images"]  # which images they are of


def epoch(run: Run, number: int = 0, processes: Processes = ALONE) -> list[Batch]:
    return list(Loader(run, processes).epoch(number))


def same(one: list, other: list) -> bool:
    return all(
        torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and a[2] == b[2] for a, b in zip(one, other, strict=True)
    )


def test_batches_depend_on_neither_workers_nor_what_was_drawn_before(modern: Run) -> None:
    plain = epoch(modern)
    torch.rand(3), np.random.rand(3), random.random()
    assert same(plain, epoch(modern))
    assert same(plain, epoch(replace(modern, workers=2)))


def test_batches_depend_on_epoch_and_seed(modern: Run) -> None:
    plain = epoch(modern)
    for other in (epoch(modern, 1), epoch(replace(modern, seed=1))):
        assert [batch.samples for batch in plain] != [batch.samples for batch in other]
        assert sorted(s for batch in plain for _, s in batch.samples) == sorted(
            s for batch in other for _, s in batch.samples
        )


def test_augmentation_of_an_image_changes_with_the_epoch(modern: Run) -> None:
    training = Loader(modern, ALONE).training.dataset
    first, again, later = (training[[(e, 5)]].images for e in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_drawing_batches_leaves_the_global_generators_alone(modern: Run) -> None:
    def state() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = state()
    batch = epoch(modern)[0]
    Preprocess(CPU)(batch.images, batch.erased)
    assert state() == before


def test_last_incomplete_batch_is_dropped(modern: Run) -> None:
    batches = epoch(replace(modern, recipe=replace(modern.recipe, batch_size=30)))
    assert [len(batch.labels) for batch in batches] == [30] * 6
    assert len({sample for batch in batches for sample in batch.samples}) == 180


def test_batch_of_more_than_there_is_is_refused(modern: Run) -> None:
    with pytest.raises(SettingsError, match=r"recipe\.batch_size=202 is more than the 200 training images"):
        Loader(replace(modern, recipe=replace(modern.recipe, batch_size=202)), ALONE)


def test_images_are_what_was_stored(modern: Run, sample: dict[str, np.ndarray]) -> None:
    """In evaluation: grey as RGB, 28 pixels centred in 32, normalised as ImageNet is."""
    loader = Loader(modern, ALONE)
    images, labels, samples, *_ = next(loader.evaluation.batches())
    finished = Preprocess(CPU)(images)
    index = samples[3][1]
    framed = np.pad(sample["train_images"][index], 2).astype(np.float32) / 255
    for channel in range(3):
        expected = (framed - IMAGENET_DEFAULT_MEAN[channel]) / IMAGENET_DEFAULT_STD[channel]
        np.testing.assert_allclose(finished[3, channel].numpy(), expected, atol=1e-5)
    assert labels[3] == sample["train_labels"][index]
    assert finished.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("world", [2, 4])
def test_a_step_has_the_same_images_on_any_number_of_processes(world: int, modern: Run) -> None:
    """And however it is split into passes; so an epoch that was begun on one number can be ended on another."""
    alone = [sorted(batch.samples) for batch in epoch(modern)]
    split = split_batch(modern.recipe.batch_size, 5, world)
    shared = replace(modern, split=split)
    parts = [epoch(shared, processes=Processes(CPU, rank, world)) for rank in range(world)]
    assert {len(part) for part in parts} == {len(alone) * split.accumulation}
    for step, samples in enumerate(alone):
        passes = slice(step * split.accumulation, (step + 1) * split.accumulation)
        assert sorted(s for part in parts for batch in part[passes] for s in batch.samples) == samples


@pytest.mark.parametrize("world", [2, 3, 7])
def test_processes_share_the_evaluation_images(world: int, modern: Run) -> None:
    """200 images among 3 or 7: nobody counts one twice, and none is left out."""
    loaders = [Loader(modern, Processes(CPU, rank, world)) for rank in range(world)]
    seen = [s for loader in loaders for batch in loader.evaluation.batches() for _, s in batch.samples]
    assert sorted(seen) == sorted(s for batch in Loader(modern, ALONE).evaluation.batches() for _, s in batch.samples)
    assert len(set(seen)) == 200
