"""Images of every reader: order, labels and pixels against independent truth; every image once; errors in one line."""

import io
import json
import pickle
import random
import shutil
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset
from torchvision.datasets import ImageFolder

from benchmarks.input import Case, make_images
from experiments.config.code_digest import training_sources
from experiments.config.settings import READERS, Data, Recipe
from experiments.data import images as images_module
from experiments.data.datasets import Collection, Streamed
from experiments.data.images import BrokenImageError, Jpeg, Stream, decode, undecoded
from experiments.data.readers import load_images
from experiments.data.transforms import ResizedCrop, TrainingTransform
from experiments.errors import SettingsError
from experiments.runtime.processes import Processes

CLASSES = ("n10", "n9", "n9b")  # by name 10 stands before 9: in natural order it would not
COUNTS = {"train": (7, 5, 8), "val": (2, 4, 3)}
SHARES = [(1, 1), (2, 1), (1, 3), (3, 2), (4, 4)]  # (processes, loader workers of each); the data have 3 shards


def encoded(value: int, format: str = "PNG", size: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(file, format)
    return file.getvalue()


def samples(part: str) -> list[tuple[str, bytes, int]]:
    """(class/name, bytes, label), sorted. Every image has a colour of its own."""
    rows = [(name, label, i) for label, name in enumerate(CLASSES) for i in range(COUNTS[part][label])]
    return [(f"{name}/{i}.png", encoded(index), label) for index, (name, label, i) in enumerate(rows)]


def colours(images: list[Image.Image]) -> list[int]:
    return [int(np.asarray(image)[0, 0, 0]) for image in images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part in COUNTS:
        for name, data, _ in samples(part):
            file = tmp_path / "flowers" / part / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    return tmp_path / "flowers"


def tar_of(path: Path, files: list[tuple[str, bytes]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def add_member(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, target: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    tar.addfile(info, io.BytesIO(data))


def one_tar(folder: Path) -> None:
    for part in COUNTS:
        tar_of(folder / f"{part}.tar", [(f"./{name}", data) for name, data, _ in reversed(samples(part))])


def tar_of_each_class(folder: Path) -> None:
    for part in COUNTS:
        for label, name in enumerate(CLASSES):
            files = [(file.split("/")[1], data) for file, data, of in samples(part) if of == label]
            tar_of(folder / part / f"{name}.tar", files)


def tar_of_tars(folder: Path) -> None:
    """As ImageNet is given out."""
    tar_of_each_class(folder)
    for part in COUNTS:
        tar_of(folder / f"{part}.tar", [(file.name, file.read_bytes()) for file in (folder / part).iterdir()])
        shutil.rmtree(folder / part)


def mixed_shards(folder: Path) -> None:
    for part in COUNTS:
        for shard in range(3):
            tar_of(folder / part / f"{shard}.tar", [(name, data) for name, data, _ in samples(part)[shard::3]])


def wds_shards(folder: Path, info: bool = True) -> None:
    """Three shards of unequal length a part."""
    splits = {}
    for part in COUNTS:
        shards = np.array_split(np.arange(len(samples(part))), [3, 4])
        splits[part] = {"name": part, "num_samples": len(samples(part)), "filenames": [], "shard_lengths": []}
        for number, indices in enumerate(shards):
            files = []
            for index in indices:
                _, data, label = samples(part)[index]
                files += [(f"{index:03}.png", data), (f"{index:03}.cls", str(label).encode())]
            tar_of(folder / f"{part}-{number}.tar", files)
            splits[part]["filenames"].append(f"{part}-{number}.tar")
            splits[part]["shard_lengths"].append(len(indices))
    if info:
        (folder / "_info.json").write_text(json.dumps({"splits": splits}))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hugging Face dataset of three files a split; whatever the library keeps stays in the test's folder."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(CLASSES)))
    for part in COUNTS:
        for number, rows in enumerate(np.array_split(np.arange(len(samples(part))), 3)):
            chosen = [samples(part)[row] for row in rows]
            columns = {
                "image": [{"bytes": data, "path": None} for _, data, _ in chosen],
                "label": [label for *_, label in chosen],
            }
            file = tmp_path / "hub" / f"{'validation' if part == 'val' else part}-{number:05}-of-00003.parquet"
            file.parent.mkdir(exist_ok=True)
            datasets.Dataset.from_dict(columns, features).to_parquet(file)
    return tmp_path / "hub"


@pytest.fixture(params=["wds", "wds counted", "hfids"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Stream, Stream]:
    if request.param == "hfids":
        return load_images(Data("x", "hfids", str(request.getfixturevalue("hub")), "train|20", "validation|9"))
    pytest.importorskip("webdataset")
    (tmp_path / "shards").mkdir()
    wds_shards(tmp_path / "shards", info=request.param == "wds")
    splits = ("train", "val") if request.param == "wds" else ("train-{0..2}.tar", "val-{0..2}.tar|9")
    return load_images(Data("x", "wds", str(tmp_path / "shards"), *splits, num_classes=3))


def refused(data: Data) -> str:
    """The one line that says why."""
    with pytest.raises(SettingsError) as error:
        load_images(data)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_folder_has_the_order_and_labels_of_torchvision(folder: Path) -> None:
    (folder / "train" / "n9" / "deeper").mkdir()
    (folder / "train" / "n9" / "deeper" / "é.JPEG").write_bytes(encoded(200, "JPEG"))
    (folder / "train" / "n9" / "notes.txt").write_text("not an image")
    for part, images in zip(COUNTS, load_images(Data("x", "folder", str(folder))), strict=True):
        truth = ImageFolder(folder / part)
        assert images.classes == len(truth.classes) == 3
        assert [images.name(i) for i in range(len(images.labels))] == [path for path, _ in truth.samples]
        assert images.labels.dtype == np.int64
        assert images.labels.tolist() == truth.targets
        for index, (image, _) in enumerate(truth):
            np.testing.assert_array_equal(np.asarray(images.image(index)), np.asarray(image))


@pytest.mark.parametrize("form", [one_tar, tar_of_each_class, tar_of_tars, mixed_shards])
def test_tar_files_are_the_same_dataset_as_the_folder(form: Callable[[Path], None], tmp_path: Path) -> None:
    form(tmp_path)
    for part, images in zip(COUNTS, load_images(Data("x", "tar", str(tmp_path))), strict=True):
        assert images.classes == 3
        assert images.labels.dtype == np.int64
        assert images.labels.tolist() == [label for *_, label in samples(part)]
        assert colours([images.image(i) for i in range(len(images.labels))]) == list(range(len(images.labels)))
        assert images.name(1).startswith(str(tmp_path / part))
        assert images.name(1).endswith("1.png")


def test_tar_files_have_links_and_what_is_no_image(tmp_path: Path) -> None:
    """Links are followed, each image is listed once, and members of other kinds are left out."""
    for part in COUNTS:
        with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
            add = partial(add_member, tar)
            add("a/link.png", kind=tarfile.SYMTYPE, target="../b/1.png")  # before what it links to
            add("a", kind=tarfile.DIRTYPE)
            add("a/0.png", encoded(9))
            add("./a/0.png", encoded(7))  # once more: as tar unpacks it, the last counts
            add("a/pipe.png", kind=tarfile.FIFOTYPE)
            add("a/empty.png")
            add("a/gone.png", kind=tarfile.SYMTYPE, target="nothing.png")
            add("a/ring.png", kind=tarfile.SYMTYPE, target="ring.png")
            add("b/1.png", encoded(8))
            add("b/hard.png", kind=tarfile.LNKTYPE, target="b/1.png")
            add("b/\udcff.png", encoded(6))
    images, _ = load_images(Data("x", "tar", str(tmp_path)))
    names = [
        "a/0.png",
        "a/empty.png",
        "a/gone.png",
        "a/link.png",
        "a/ring.png",
        "b/1.png",
        "b/hard.png",
        "b/\udcff.png",
    ]
    assert images.keys() == [name.encode("utf-8", "surrogateescape") for name in names]
    assert images.labels.tolist() == [0] * 5 + [1] * 3
    assert colours([images.image(index) for index in (0, 3, 5, 6, 7)]) == [7, 8, 8, 8, 6]
    for index, reason in ((1, "empty"), (2, "a link to a file that is not in the tar"), (4, "a link to a file")):
        with pytest.raises(BrokenImageError, match=reason) as error:
            images.image(index)
        assert str(error.value).isprintable()


def test_hugging_face_dataset_is_read_in_any_order(hub: Path) -> None:
    for part, images in zip(COUNTS, load_images(Data("x", "hfds", str(hub), val="validation")), strict=True):
        assert images.classes == 3
        assert images.labels.dtype == np.int64
        assert images.labels.tolist() == [label for *_, label in samples(part)]
        order = list(reversed(range(len(images.labels))))
        assert colours([images.image(i) for i in order]) == order
        assert str(hub) in images.name(0)


@pytest.mark.parametrize(("name", "classes", "key"), [("cifar10", 10, "labels"), ("cifar100", 100, "fine_labels")])
def test_cifar_is_read_from_its_own_files(
    name: str, classes: int, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision import datasets

    dataset = getattr(datasets, name.upper())
    monkeypatch.setattr(dataset, "_check_integrity", lambda _: True)  # whose sums are those of the true files
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    rng = np.random.default_rng(0)
    written = {}
    for train, files in ((True, dataset.train_list), (False, dataset.test_list)):
        pixels = rng.integers(0, 256, (len(files), classes, 3, 32, 32), np.uint8)
        labels = [rng.permutation(classes).tolist() for _ in files]
        for (file, _), some, of in zip(files, pixels, labels, strict=True):
            path = tmp_path / dataset.base_folder / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pickle.dumps({"data": some.reshape(classes, -1), key: of}))
        written[train] = pixels.reshape(-1, 3, 32, 32), np.concatenate(labels)
    meta = {dataset.meta["key"]: [str(i) for i in range(classes)]}
    (tmp_path / dataset.base_folder / dataset.meta["filename"]).write_bytes(pickle.dumps(meta))
    for train, images in zip((True, False), load_images(Data(name, "torchvision", str(tmp_path))), strict=True):
        pixels, labels = written[train]
        np.testing.assert_array_equal(images.labels, labels)
        np.testing.assert_array_equal(np.asarray(images.image(3)), pixels[3].transpose(1, 2, 0))
        assert (images.classes, images.labels.dtype, images.image(3).mode) == (classes, np.int64, "RGB")


def test_cifar_that_cannot_be_had_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no\nnetwork")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", refuse)
    line = refused(Data("cifar10", "torchvision", str(tmp_path / "new")))
    assert f"put cifar-10-python.tar.gz into {tmp_path / 'new'}" in line
    assert "(no network)" in line


@pytest.mark.parametrize(("world", "workers"), SHARES)
def test_evaluation_of_a_stream_sees_every_image_once(world: int, workers: int, stream: tuple[Stream, Stream]) -> None:
    for part, images in zip(COUNTS, stream, strict=True):
        assert (images.length, images.classes) == (len(samples(part)), 3)
        seen = everything(images, 0, False, world, workers)
        assert sorted(seen) == [(index, label) for index, (*_, label) in enumerate(samples(part))]


@pytest.mark.parametrize(("world", "workers"), SHARES)
def test_training_on_a_stream_gives_every_process_as_many(
    world: int, workers: int, stream: tuple[Stream, Stream]
) -> None:
    for rank in range(world):
        assert len(share(stream[0], 0, True, rank, world, workers)) == 20 // world
    seen = Counter(everything(stream[0], 0, True, world, workers))
    truth = {(index, label) for index, (*_, label) in enumerate(samples("train"))}
    assert {*seen} <= truth
    if (world, workers) != (1, 3):  # where datasets gives each worker one of three files of 7, 7 and 6
        assert set(seen.values()) == {1}
    assert sum((seen - Counter({*seen})).values()) <= 1


def test_order_of_a_stream_depends_on_the_epoch_alone(stream: tuple[Stream, Stream]) -> None:
    one, again, other = (everything(stream[0], epoch, True, 2, 1) for epoch in (5, 5, 6))
    assert one == again
    assert one != other
    assert one != sorted(one)


def test_order_of_shards_depends_on_the_epoch(stream: tuple[Stream, Stream], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.data.readers.streaming.BUFFER", 1)  # images of a shard come in their order
    assert len({everything(stream[0], epoch, True, 1, 1)[0] for epoch in range(10)}) == 3


def test_order_within_a_shard_depends_on_the_epoch(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    wds_shards(tmp_path)
    images, _ = load_images(Data("x", "wds", str(tmp_path), "train-2.tar", num_classes=3))
    assert everything(images, 0, True, 1, 1) != everything(images, 1, True, 1, 1)


class Worker(IterableDataset):
    """A loader worker's share, as it comes in a process of its own."""

    def __init__(self, images: Stream) -> None:
        self.images = images

    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        share = self.images.images(0, shuffle=False, rank=0, world=1, worker=info.id, workers=info.num_workers)
        yield from ((colours([image])[0], label) for image, label in share)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("workers", [1, 4])
def test_streams_are_not_split_once_more_inside_loader_workers(workers: int, stream: tuple[Stream, Stream]) -> None:
    loader = DataLoader(Worker(stream[1]), batch_size=None, num_workers=workers)
    assert sorted(map(tuple, loader)) == [(index, label) for index, (*_, label) in enumerate(samples("val"))]


def share(images: Stream, epoch: int, shuffle: bool, rank: int, world: int, workers: int) -> list[tuple[int, int]]:
    """What one process sees: [(colour, label)]."""
    place = partial(images.images, epoch, shuffle=shuffle, rank=rank, world=world, workers=workers)
    pairs = [pair for worker in range(workers) for pair in place(worker=worker)]
    return list(zip(colours([image for image, _ in pairs]), [label for _, label in pairs], strict=True))


def everything(images: Stream, epoch: int, shuffle: bool, world: int, workers: int) -> list[tuple[int, int]]:
    return [pair for rank in range(world) for pair in share(images, epoch, shuffle, rank, world, workers)]


@pytest.mark.parametrize("cut", [0, 10, 300, -200])
def test_truncated_image_is_named(cut: int, folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    file = folder / "train" / "n10" / "1.jpg"
    Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[:cut])
    images, _ = load_images(Data("x", "folder", str(folder)))
    broken = next(i for i in range(len(images.labels)) if images.name(i) == str(file))
    with pytest.raises(BrokenImageError) as error:
        images.image(broken)
    assert error.value.name == str(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)  # as a loader worker sends it


def test_image_that_is_gone_is_named(folder: Path) -> None:
    images, _ = load_images(Data("x", "folder", str(folder)))
    (folder / "train" / "n10" / "0.png").unlink()
    with pytest.raises(BrokenImageError, match=r"n10/0\.png: .*No such file"):
        images.image(0)


def saved(image: Image.Image, format: str, **options: object) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file


def transparent_palette() -> io.BytesIO:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    return saved(image, "PNG", transparency=1)


def sixteen_bits(value: int, dtype: str = "<u2") -> Image.Image:
    return Image.fromarray(np.array([[value]], dtype))


def animation() -> io.BytesIO:
    frames = [Image.new("RGB", (1, 1), colour) for colour in ("red", "blue")]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


IMAGES = {
    "1": (lambda: saved(Image.new("1", (1, 1), 1), "PNG"), (255, 255, 255)),
    "L": (lambda: saved(Image.new("L", (1, 1), 7), "PNG"), (7, 7, 7)),
    "LA, transparent": (lambda: saved(Image.new("LA", (1, 1), (7, 0)), "PNG"), (7, 7, 7)),
    "RGB": (lambda: saved(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"), (1, 2, 3)),
    "RGBA, transparent": (lambda: saved(Image.new("RGBA", (1, 1), (1, 2, 3, 0)), "PNG"), (1, 2, 3)),
    "P, transparent": (transparent_palette, (10, 20, 30)),
    "CMYK": (lambda: saved(Image.new("CMYK", (1, 1), (255, 0, 0, 0)), "TIFF"), (0, 255, 255)),
    "YCbCr": (lambda: saved(Image.new("YCbCr", (1, 1), (76, 85, 255)), "TIFF"), (254, 0, 0)),
    "LAB": (lambda: saved(Image.new("LAB", (1, 1), (0, 128, 128)), "TIFF"), (0, 0, 0)),
    "16 bits, PNG": (lambda: saved(sixteen_bits(257 * 7 + 128), "PNG"), (7, 7, 7)),
    "16 bits, PNG, rounded up": (lambda: saved(sixteen_bits(257 * 7 + 129), "PNG"), (8, 8, 8)),
    "16 bits, TIFF": (lambda: saved(sixteen_bits(65535), "TIFF"), (255, 255, 255)),
    "16 bits, big-endian TIFF": (lambda: saved(sixteen_bits(257 * 9, ">u2"), "TIFF"), (9, 9, 9)),
    "16 bits, PGM": (lambda: io.BytesIO(b"P5 1 1 65535\n\x80\x80"), (128, 128, 128)),
    "10 bits, PGM": (lambda: io.BytesIO(b"P5 1 1 1023\n\x03\xff"), (255, 255, 255)),
    "GIF, first frame": (animation, (255, 0, 0)),
}
if PIL.__version__ < "13":  # which can't read the YCbCr TIFFs that it writes
    del IMAGES["YCbCr"]


@pytest.mark.parametrize("kind", IMAGES)
def test_every_image_becomes_rgb(kind: str) -> None:
    make, pixel = IMAGES[kind]
    image = decode(make(), "x")
    assert image.mode == "RGB"
    assert image.getpixel((0, 0)) == pytest.approx(pixel, abs=kind == "LAB")  # which goes through colour profiles


@pytest.mark.parametrize("kind", [kind for kind in IMAGES if "bits" not in kind])
def test_pixels_are_those_of_timm(kind: str, tmp_path: Path) -> None:
    from timm.data import ImageDataset

    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        (tmp_path / part / "a" / "0.png").write_bytes(IMAGES[kind][0]().getvalue())  # whatever its format
    truth, _ = ImageDataset(str(tmp_path / "train"))[0]
    train, _ = load_images(Data("x", "folder", str(tmp_path)))
    np.testing.assert_array_equal(np.asarray(train.image(0)), np.asarray(truth))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_image_without_a_known_range_is_refused(mode: str) -> None:
    with pytest.raises(BrokenImageError, match=f"image x: pixels of Pillow's mode {mode} have no known range"):
        decode(saved(Image.new(mode, (1, 1), 70000), "TIFF"), "x")


def test_every_mode_of_pillow_is_known_or_refused() -> None:
    modes = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"}
    assert modes == images_module.EIGHT_BITS
    for mode in modes:
        assert Image.new(mode, (1, 1)).convert("RGB").mode == "RGB"


def outcome(file: io.BytesIO, lazy: bool) -> np.ndarray | str:
    """Pixels, or what is said of it."""
    try:
        image = decode(file, "x", lazy)
        return np.asarray(image.decode(1) if isinstance(image, Jpeg) else image)
    except BrokenImageError as error:
        return str(error)


JPEGS = {
    "RGB": {},
    "L": {},
    "CMYK": {},
    "progressive": {"progressive": True},
    "two frames": {"format": "MPO", "save_all": True, "append_images": [Image.new("RGB", (90, 60))]},
}


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_that_waits_for_its_crop_is_the_same_image_or_as_broken(kind: str) -> None:
    options = {"format": "JPEG"} | JPEGS[kind]
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    data = saved(Image.fromarray(pixels).convert(kind if kind.isupper() else "RGB"), **options).getvalue()
    assert isinstance(decode(io.BytesIO(data), "x", lazy=True), Jpeg)
    for cut in (0, 1, 10, 300, len(data) // 2, len(data) - 300, len(data) - 1, len(data)):
        now, later = (outcome(io.BytesIO(data[:cut]), lazy) for lazy in (False, True))
        assert type(now) is type(later)
        np.testing.assert_array_equal(now, later)


@pytest.mark.parametrize("kind", IMAGES)
def test_image_that_is_no_jpeg_does_not_wait(kind: str) -> None:
    np.testing.assert_array_equal(*(outcome(IMAGES[kind][0](), lazy) for lazy in (False, True)))


def test_reduced_decoding_changes_pixels_little(tmp_path: Path) -> None:
    """Which crop it is does not change, to a fraction of a pixel, nor anything of one that is too small."""
    [file] = make_images(tmp_path, Case(640, 480, 100, images=1, batch_size=1))
    crop, apart = ResizedCrop(100, interpolation="bicubic"), {1: [], 2: [], 4: []}
    for seed in range(40):
        drawn, states = [], []
        for lazy in (False, True):
            random.seed(seed)
            drawn.append(crop(decode(str(file), "x", lazy)).int())
            states.append(random.getstate())
        assert states[0] == states[1]
        random.seed(seed)
        *_, height, width = ResizedCrop.get_params(Image.new("L", (640, 480)), crop.scale, crop.ratio)
        reduction = max(one for one in apart if one == 1 or min(height, width) >= 100 * one)
        apart[reduction].append((drawn[0] - drawn[1]).abs().float())
    assert torch.cat(apart[1]).max() == 0
    for reduced in (torch.cat(apart[2]), torch.cat(apart[4])):
        assert 0 < reduced.mean() < 3
        assert reduced.max() < 30


@pytest.mark.parametrize("form", ["folder", "wds"])
def test_broken_jpeg_that_waits_for_its_crop_is_passed_over_as_any(form: str, tmp_path: Path) -> None:
    whole = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)), "JPEG").getvalue()
    files = [whole, whole[:-300], whole, encoded(1, size=60)]
    if form == "wds":
        pytest.importorskip("webdataset")
        members = [
            (f"{index}.{end}", file) for index, data in enumerate(files) for end, file in (("jpg", data), ("cls", b"0"))
        ]
        tar_of(tmp_path / "0.tar", members)
        images, _ = load_images(Data("x", "wds", str(tmp_path), "0.tar", "0.tar", num_classes=1))
    else:
        (tmp_path / "train" / "a").mkdir(parents=True)
        for index, data in enumerate(files):
            (tmp_path / "train" / "a" / f"{index}.jpg").write_bytes(data)
        images, _ = load_images(Data("x", "folder", str(tmp_path), val="train"))
    batches = []
    for part in (images, undecoded(images)):
        crop = TrainingTransform(Recipe(), 40)
        if form == "wds":
            [batch] = Streamed(part, crop, 0, 4, Processes(torch.device("cpu")))
        else:
            batch = Collection(part, np.arange(4), crop, 0, replace_broken=True)[[(0, index) for index in range(4)]]
        batches.append(batch)
    now, later = batches
    assert len(now.broken) == 1
    assert (now.broken, now.samples, now.failure) == (later.broken, later.samples, later.failure)
    assert len(now.samples) == (3 if form == "wds" else 4)
    assert torch.equal(now.images, later.images)  # at 60 px, no crop is large enough to be reduced


def test_stream_goes_on_after_a_broken_image(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    wds_shards(tmp_path)
    tar_of(tmp_path / "train-1.tar", [("1.png", encoded(1)[:40]), ("1.cls", b"0")])
    images, _ = load_images(Data("x", "wds", str(tmp_path), num_classes=3))
    iterator = images.images(0, shuffle=False, rank=0, world=1, worker=0, workers=1)
    assert colours([next(iterator)[0] for _ in range(3)]) == [0, 1, 2]
    with pytest.raises(BrokenImageError, match=r"the image 1 in .*train-1\.tar: "):
        next(iterator)
    assert colours([image for image, _ in iterator]) == list(range(4, 20))


def test_shards_have_what_is_no_image(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        members = {"a": {"data": encoded(7)}, "b": {}, "c": {"kind": tarfile.FIFOTYPE}, "\udcff": {"data": b"x"}}
        for name, member in members.items():
            add_member(tar, f"{name}.png", **member)
            add_member(tar, f"{name}.cls", b"0")
    images, _ = load_images(Data("x", "wds", str(tmp_path), "0.tar", "0.tar", num_classes=1))
    iterator = images.images(0, shuffle=False, rank=0, world=1, worker=0, workers=1)
    assert colours([next(iterator)[0]]) == [7]
    for name, reason in (("b", "an empty file"), ("c", "it needs a file .cls and one of"), (r"\\xff", "not an image")):
        with pytest.raises(BrokenImageError, match=f"the image {name} in .*0.tar: {reason}"):
            next(iterator)


@pytest.mark.parametrize("more", [-1, 1])
def test_shard_of_another_length_than_said_is_named(more: int, tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    wds_shards(tmp_path)
    info = json.loads((tmp_path / "_info.json").read_text())
    info["splits"]["val"]["shard_lengths"][2] += more
    (tmp_path / "_info.json").write_text(json.dumps(info))
    _, images = load_images(Data("x", "wds", str(tmp_path), num_classes=3))
    with pytest.raises(SettingsError, match=rf"val-2\.tar has .* not {5 + more}"):
        list(images.images(0, shuffle=False, rank=0, world=1, worker=0, workers=1))


def test_label_beyond_the_classes_is_named(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    wds_shards(tmp_path)
    images, _ = load_images(Data("x", "wds", str(tmp_path), num_classes=2))
    with pytest.raises(SettingsError, match=r"label of 012 in .*train-2\.tar is b'2': not a class from 0 to 1"):
        list(images.images(0, shuffle=False, rank=0, world=1, worker=0, workers=1))


def test_named_shards_are_those_alone(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    wds_shards(tmp_path)
    images, _ = load_images(Data("x", "wds", str(tmp_path), "train-{0..1}.tar", num_classes=3))
    assert images.length == 4
    assert [colour for colour, _ in everything(images, 0, False, 1, 1)] == [0, 1, 2, 3]


def test_folder_mistakes_are_one_line_that_names_the_path(folder: Path) -> None:
    data = Data("x", "folder", str(folder))
    assert str(folder / "nope") in refused(Data("x", "folder", str(folder / "nope")))
    assert "data.path is not set" in refused(Data("x", "folder"))
    assert f"no folder {folder / 'test'}: data.val" in refused(Data("x", "folder", str(folder), val="test"))
    assert "has 3 classes" in refused(Data("x", "folder", str(folder), num_classes=4))
    for image in (folder / "val" / "n9").iterdir():
        image.unlink()
    (folder / "val" / "n9" / "notes.txt").touch()
    assert f"class folder {folder / 'val' / 'n9'} has no images" in refused(data)
    shutil.rmtree(folder / "val" / "n9")
    for name in ("a", "b", "c", "d", "e"):
        (folder / "val" / name).mkdir()
    line = refused(data)
    assert "lacks n9 and adds a, b, c and 2 more" in line
    assert str(folder / "train") in line
    assert str(folder / "val") in line
    shutil.rmtree(folder / "val")
    (folder / "val").mkdir()
    assert f"{folder / 'val'} has no class folders" in refused(data)


def test_tar_mistakes_are_one_line_that_names_the_path(tmp_path: Path) -> None:
    data = partial(Data, "x", "tar", str(tmp_path))
    assert str(tmp_path / "train.tar") in refused(data())
    one_tar(tmp_path)
    assert str(tmp_path / "nope.tar") in refused(data(val="nope"))
    tar_of(tmp_path / "fewer.tar", [("n10/1.png", encoded(1))])
    assert "lacks n9 and n9b" in refused(data(val="fewer"))
    tar_of(tmp_path / "none.tar", [("notes.txt", b"")])
    assert str(tmp_path / "none.tar") in refused(data(val="none"))
    (tmp_path / "cut.tar").write_bytes((tmp_path / "train.tar").read_bytes()[:700])
    assert str(tmp_path / "cut.tar") in refused(data(val="cut"))
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(data(val="empty"))


def test_mistakes_with_shards_are_one_line_that_names_the_path(tmp_path: Path) -> None:
    pytest.importorskip("webdataset")
    wds_shards(tmp_path)
    data = partial(Data, "x", "wds", str(tmp_path))
    assert "set data.num_classes" in refused(data())
    assert f"data.path={tmp_path} has no split 'nope'" in refused(data(val="nope", num_classes=3))
    assert str(tmp_path / "val-3.tar") in refused(data(val="val-{0..3}.tar", num_classes=3))
    (tmp_path / "_info.json").unlink()
    assert "has 9 images, not 10" in refused(data("train-{0..2}.tar", "val-{0..2}.tar|10", num_classes=3))
    (tmp_path / "val-2.tar").write_bytes(b"no tar")
    assert str(tmp_path / "val-2.tar") in refused(data("train-{0..2}.tar", "val-{0..2}.tar", num_classes=3))
    assert "is not a folder" in refused(Data("x", "wds", str(tmp_path / "nope")))


@pytest.mark.parametrize("reader", ["hfds", "hfids"])
def test_mistakes_with_hugging_face_datasets_are_one_line_that_names_the_path(reader: str, hub: Path) -> None:
    data = partial(Data, "x", reader, str(hub))
    assert f"data.path={hub / 'nope'} does not exist" in refused(Data("x", reader, str(hub / "nope")))
    line = refused(data("train|20", "nope|9") if reader == "hfids" else data(val="nope"))
    assert f"data.path={hub}, split 'nope'" in line
    if reader == "hfids":
        assert "state it, like train|" in refused(data(val="validation"))


@pytest.mark.parametrize(("reader", "module"), [("wds", "webdataset"), ("hfds", "datasets"), ("hfids", "datasets")])
def test_reader_without_its_library_says_what_to_install(
    reader: str, module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.data.readers.find_spec", lambda name: None if name == module else sys)
    assert f"needs {module}: pip install -e '.[readers]'" in refused(Data("x", reader, str(tmp_path)))


@pytest.mark.parametrize("group", ["imagenet", "folder", "tar", "hfds", "wds", "hfids"])
def test_data_of_ones_own_need_a_path(group: str, run_of: Callable) -> None:
    with pytest.raises(SettingsError, match=r"data\.path is not set"):
        run_of(f"data={group}")
    run = run_of(f"data={group}", "data.path=/data/flowers")
    expected = {"imagenet": "imagenet", "hfds": "/data/flowers", "hfids": "/data/flowers"}
    assert run.data.name == expected.get(group, "flowers")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (("data.reader=foldr",), "data.reader must be .* did you mean 'folder'"),
        (("data.broken=skp",), "data.broken must be stop or skip, not 'skp'"),
        (("data.reduced_decoding=true",), "is for JPEG files .*; with data.reader=sample it would change nothing"),
        (
            ("data=folder", "data.path=x", "resolution=32", "data.reduced_decoding=true"),
            "at more than 32 px; with resolution=32 it would change nothing",
        ),
        (("data=wds", "data.path=x", "data.holdout=0.1"), "data.reader=wds streams"),
        (("data=hfids", "data.path=x", "data.subset=0.1"), "data.reader=hfids streams"),
    ],
)
def test_settings_of_data_are_checked(overrides: tuple[str, ...], line: str, run_of: Callable) -> None:
    with pytest.raises(SettingsError, match=line):
        run_of(*overrides)


def test_sources_of_every_reader_are_those_of_a_run() -> None:
    """They are imported by name; a job that waits must notice when one of them is edited."""
    assert {f"experiments/data/readers/{reader}.py" for reader in READERS} <= {*training_sources()}
