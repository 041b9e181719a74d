"""The same data are the same data, whatever form they are stored in: identity, comparison, subsets, classes."""

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from analysis.statistics.context import Context
from experiments.config.dataset_folders import dataset_version
from experiments.config.run import Run
from experiments.config.settings import Data
from experiments.data.images import ArrayImages
from experiments.data.partition import partition
from experiments.data.readers import imagenette, load_images
from experiments.errors import SettingsError
from roadmap.conf import CONF

CLASSES = {"tulip": 12, "daisy": 10, "rose": 8}


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Data]:
    """Thirty images, each of a colour of its own, as a folder, tar files, and a Hugging Face dataset whose classes and
    rows have another order."""
    root = tmp_path_factory.mktemp("stored")
    rows = [(name, f"{name}_{i}.png") for name, count in CLASSES.items() for i in range(count)]
    encoded = {}
    for colour, (name, file) in enumerate(rows):
        encoded[file] = io.BytesIO()
        Image.new("RGB", (1, 1), (colour, 0, 0)).save(encoded[file], "PNG")
        for part in ("train", "val"):
            (root / "folder" / part / name).mkdir(parents=True, exist_ok=True)
            (root / "folder" / part / name / file).write_bytes(encoded[file].getvalue())
    for part in ("train", "val"):
        with tarfile.open(root / f"{part}.tar", "w") as tar:
            tar.add(root / "folder" / part, ".")
    data = {"folder": Data("x", "folder", str(root / "folder")), "tar": Data("x", "tar", str(root))}
    try:
        import datasets
    except ImportError:
        return data
    columns = {
        "image": [{"bytes": encoded[file].getvalue(), "path": f"{name}/{file}"} for name, file in rows],
        "label": [list(CLASSES).index(name) for name, _ in rows],
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", root / "cache")
        features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=[*CLASSES]))
        (root / "hub").mkdir()
        for split in ("train", "validation"):
            dataset = datasets.Dataset.from_dict(columns, features)
            dataset.to_parquet(root / "hub" / f"{split}-00000-of-00001.parquet")
        data["hfds"] = Data("x", "hfds", str(root / "hub"), val="validation")
        load_images(data["hfds"])
    return data


def drawn(data: Data, **parts: float) -> tuple[list[int], list[int]]:
    """The colours of the images that are trained on and of those held out."""
    train, _ = load_images(data)
    chosen = partition(train, Data(**parts))
    return tuple(sorted(train.image(int(i)).getpixel((0, 0))[0] for i in indices) for indices in chosen)


@pytest.mark.parametrize("form", ["tar", "hfds"])
def test_subset_and_holdout_are_the_same_images_in_every_form(form: str, stored: dict[str, Data]) -> None:
    if form not in stored:
        pytest.skip("needs datasets")
    parts = {"subset": 0.5, "holdout": 0.25}
    training, held_out = drawn(stored["folder"], **parts)
    assert (len(training), len(held_out)) == (4 + 4 + 3, 3 + 2 + 2)
    assert drawn(stored[form], **parts) == (training, held_out)


def test_what_is_drawn_of_a_class_depends_on_no_other(stored: dict[str, Data], tmp_path: Path) -> None:
    parts = {"subset": 0.5, "holdout": 0.25}
    both = drawn(stored["folder"], **parts)
    for part in ("train", "val"):
        shutil.copytree(Path(stored["folder"].path) / part / "rose", tmp_path / part / "rose")
    of_roses = drawn(Data("x", "folder", str(tmp_path)), **parts)
    roses = range(22, 30)
    assert of_roses == tuple([colour for colour in part if colour in roses] for part in both)


def test_what_is_drawn_is_not_a_range_of_names() -> None:
    images = ArrayImages(np.zeros((100, 1, 1), np.uint8), np.zeros(100, np.int64))
    training, held_out = partition(images, Data(subset=0.5, holdout=0.2))
    assert 0 < held_out.min() < 20 < 80 < held_out.max()
    assert len({*training.tolist(), *held_out.tolist()}) == 20 + 40


@pytest.mark.parametrize(
    ("holdout", "line"),
    [(0.01, "holdout=0.01 of 10 to 10 images per class: none is held out"), (0.99, "none is left to train on")],
)
def test_holdout_that_leaves_nothing_is_refused(holdout: float, line: str) -> None:
    images = ArrayImages(np.zeros((20, 1, 1), np.uint8), np.repeat(np.arange(2), 10))
    with pytest.raises(SettingsError, match=line):
        partition(images, Data(holdout=holdout))


def test_images_without_file_names_have_no_subset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["a"]))
    (tmp_path / "hub").mkdir()
    rows = {"image": [{"bytes": b"x", "path": None}] * 9, "label": [0] * 9}
    datasets.Dataset.from_dict(rows, features).to_parquet(tmp_path / "hub" / "train-00000-of-00001.parquet")
    images, _ = load_images(Data("x", "hfds", str(tmp_path / "hub"), val="train"))
    assert images.fingerprint
    assert len(partition(images, Data()).training) == 9
    with pytest.raises(SettingsError, match=r"draw images by class and file name, and .* has no file names"):
        partition(images, Data(subset=0.5))


def test_class_folders_are_numbered_by_name_and_hub_datasets_as_they_are(stored: dict[str, Data]) -> None:
    for form, data in stored.items():
        names = tuple(CLASSES) if form == "hfds" else tuple(sorted(CLASSES))
        for images in load_images(data):
            assert images.class_names == names
            counts = [CLASSES[name] for name in names]
            assert images.labels.tolist() == np.repeat(np.arange(3), counts).tolist()


def test_fingerprint_is_of_the_form_and_of_which_image_is_where(stored: dict[str, Data]) -> None:
    prints = {form: load_images(data)[0].fingerprint for form, data in stored.items()}
    assert len({*prints.values()}) == len(prints)
    assert prints["folder"] == load_images(stored["folder"])[1].fingerprint  # parts of the same names
    assert {text.split()[0] for text in prints.values()} == {*prints}
    subset = ArrayImages(np.zeros((3, 1, 1), np.uint8), np.array([0, 1, 1]))
    assert subset.fingerprint != ArrayImages(subset.pixels, np.array([0, 0, 1])).fingerprint


IMAGENET = {"name": "imagenet", "path": "/data/i"}
SAME = {
    "imagenet": {"path": "/elsewhere"},
    "tar": IMAGENET,
    "hfds": IMAGENET,
    "hfids": IMAGENET | {"train": "train|1281167"},
    "wds": IMAGENET | {"num_classes": 1000, "val": "validation"},
    "folder": IMAGENET | {"broken": "skip", "train_images": 7},
}
OTHERS = [
    {"val": "test"},
    {"val": "validation"},  # of a folder
    {"train": "trainval"},
    {"val": "val-{0..9}.tar"},  # perhaps not all of it
    {"subset": 0.5},
    {"holdout": 0.1},
    {"name": "imagenet_v2"},
    {"version": "2"},
]


@pytest.fixture(scope="module")
def run_on(run_of: Callable[..., Run]) -> Callable[..., Run]:
    """The same run on the data of a file of conf/data/, with some settings changed."""
    run = run_of("rung=gelu")

    def on(file: str, **settings: object) -> Run:
        config = OmegaConf.merge(OmegaConf.structured(Data), OmegaConf.load(CONF / "data" / f"{file}.yaml"), settings)
        root = OmegaConf.create({"data": config})
        return replace(run, data=OmegaConf.to_object(root.data))

    return on


def context_of(run: Run, **changes: object) -> str:
    row = run.to_json() | {"recipe_name": "modern", "epochs": 2, "batch_size": 64, "metric": "top1"}
    return Context.of(row | changes, run.requested.road).key


def test_dataset_is_one_in_every_form(run_on: Callable[..., Run]) -> None:
    runs = [run_on(file, **settings) for file, settings in SAME.items()]
    assert len({run.identity for run in runs}) == 1
    assert len({context_of(run) for run in runs}) == 1


def test_other_images_are_other_runs_and_not_compared(run_on: Callable[..., Run]) -> None:
    runs = [run_on("imagenet", **{"path": "/elsewhere"} | settings) for settings in ({}, *OTHERS)]
    assert len({run.identity for run in runs}) == len(runs)
    assert len({context_of(run) for run in runs}) == len(runs)


def test_part_that_is_not_read_and_classes_that_are_stated(run_on: Callable[..., Run]) -> None:
    held_out = [run_on("imagenet", path="/data/i", holdout=0.1, val=val) for val in ("val", "test")]
    stated = [run_on("wds", path=str(CONF), num_classes=classes) for classes in (2, 3)]  # the width of the classifier
    for make in (lambda run: run.identity, context_of):
        assert len({make(run) for run in held_out}) == 1
        assert len({make(run) for run in stated}) == 2


def test_name_that_is_stated_is_taken_at_its_word(study_runs: Callable, photographs: Path) -> None:
    """Also where the folder happens to be called so."""
    data = ("data=folder", f"data.path={photographs}", "recipe.batch_size=8")
    for name, is_versioned in (((), True), ((f"data.name={photographs.name}",), False)):
        [run] = study_runs(*data, *name)
        assert (run.data.name, run.data.version is not None) == (photographs.name, is_versioned)


@pytest.mark.parametrize("reader", ["folder", "tar"])
def test_two_folders_of_one_name_are_two_datasets(reader: str, run_on: Callable[..., Run], tmp_path: Path) -> None:
    folder, other = tmp_path / "flowers", tmp_path / "other" / "flowers"
    for file in ("train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png"):
        (folder / file).parent.mkdir(parents=True)
        (folder / file).touch()
    other.parent.mkdir()
    other.symlink_to(folder)

    def identity(path: Path, **settings: str) -> str:
        dataset_version.cache_clear()
        run = run_on(reader, path=str(path), **settings)
        assert run.data.name == settings.get("name", "flowers")
        return run.identity

    first, copy = identity(folder), identity(other)
    assert (first == copy) == (reader == "folder")  # the same images; of tar files, the path decides
    assert identity(folder, name="x") == identity(other, name="x") == identity(tmp_path / "gone", name="x")
    other.unlink()
    folder.rename(other)
    assert identity(other) == copy
    (other / "train" / "a" / "5.png").touch()
    assert (identity(other) == copy) == (reader == "tar")


def test_dataset_of_a_name_of_its_own_is_not_listed(
    run_on: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.config.dataset_folders.class_folders", lambda root: pytest.fail("listed"))
    assert run_on("folder", path=str(tmp_path), name="x").data.version is None
    for known in ("imagenet", "imagenette", "tiny_imagenet"):
        assert run_on(known, path=str(tmp_path)).data.version is None


def test_records_of_before_compare_with_those_of_now(run_on: Callable[..., Run]) -> None:
    """A record without settings that were added later has them at their defaults."""
    run = run_on("imagenet", path="/elsewhere")
    old = {key: getattr(run.data, key) for key in ("name", "reader", "num_classes", "subset", "holdout")}
    assert context_of(run, data=old) == context_of(run)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """Tiny ImageNet as it is given out, of two classes, and, in another folder, as class folders."""
    given, folders = tmp_path / "tiny-imagenet-200", tmp_path / "folders"
    (given / "val" / "images").mkdir(parents=True)
    lines = []
    for number, name in enumerate(("n2", "n1", "n2", "n1", "n1")):
        image = Image.new("RGB", (1, 1), (number, 0, 0))
        for file in (
            given / "train" / name / "images" / f"{name}_{number}.JPEG",
            given / "val" / "images" / f"val_{number}.JPEG",
            folders / "train" / name / f"{name}_{number}.JPEG",
            folders / "val" / name / f"val_{number}.JPEG",
        ):
            file.parent.mkdir(parents=True, exist_ok=True)
            image.save(file, "PNG")
        lines.append(f"val_{number}.JPEG\t{name}\t0\t32\t44\t62\n")
        (given / "train" / name / f"{name}_boxes.txt").touch()
    (given / "val" / "val_annotations.txt").write_text("".join(lines))
    return given


def test_tiny_imagenet_is_read_as_it_is_given_out(tiny: Path) -> None:
    given = load_images(Data("tiny_imagenet", "tiny_imagenet", str(tiny)))
    folders = load_images(Data("tiny_imagenet", "tiny_imagenet", str(tiny.parent / "folders")))
    for one, other in zip(given, folders, strict=True):
        assert one.class_names == other.class_names == ("n1", "n2")
        assert one.labels.tolist() == other.labels.tolist() == [0, 0, 0, 1, 1]
        assert one.keys() == other.keys()
        for images in (one, other):
            assert [images.image(index).getpixel((0, 0))[0] for index in range(5)] == [1, 3, 4, 0, 2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("val_0.JPEG n1", "line 1: expected an image's name, a tab"),
        ("", "lists no images"),
        ("val_0.JPEG\tn1\nval_1.JPEG\tn3", "lacks n2 and adds n3"),
    ],
)
def test_mistake_in_annotations_is_one_line(text: str, reason: str, tiny: Path) -> None:
    (tiny / "val" / "val_annotations.txt").write_text(text)
    with pytest.raises(SettingsError, match=reason):
        load_images(Data("tiny_imagenet", "tiny_imagenet", str(tiny)))


@pytest.mark.parametrize("name", ["imagenette", "imagenette_320", "imagenette_160"])
def test_imagenette_is_downloaded_or_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = []

    def unpack(url: str, root: Path, md5: str) -> None:
        requested.append(url)
        folder = Path(root) / url.rpartition("/")[2].removesuffix(".tgz")
        for part, numbers in (("train", range(2)), ("val", range(1))):
            for number in numbers:
                file = folder / part / "n01440764" / f"{number}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (1, 1)).save(file)

    monkeypatch.setattr("torchvision.datasets.imagenette.download_and_extract_archive", unpack)
    data = Data(name, "imagenette", str(tmp_path / "new"), num_classes=1)
    with pytest.raises(SettingsError, match="has 2 and 1 images, not 9,469 and 3,925: remove it"):
        load_images(data)
    monkeypatch.setattr(imagenette, "COUNTS", (2, 1))
    assert [len(part.labels) for part in load_images(data)] == [2, 1]
    assert len(requested) == 1
    assert requested[0].endswith({"imagenette": "2.tgz", "imagenette_320": "2-320.tgz"}.get(name, "2-160.tgz"))
    [folder] = (path for path in (tmp_path / "new").iterdir() if path.is_dir())
    assert [len(part.labels) for part in load_images(Data(name, "imagenette", str(folder)))] == [2, 1]


def test_imagenette_that_cannot_be_had_says_where_to_put_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.imagenette.download_and_extract_archive", refuse)
    with pytest.raises(SettingsError, match=r"\(no network\); unpack imagenette2-160\.tgz into"):
        load_images(Data("imagenette_160", "imagenette", str(tmp_path)))


@pytest.mark.skipif("ROADMAP_PHOTOGRAPHS" not in os.environ, reason="needs photographs in class folders")
def test_photographs_are_imagenette() -> None:
    path = os.environ["ROADMAP_PHOTOGRAPHS"]
    train, val = load_images(Data("imagenette", "imagenette", path, num_classes=10))
    assert train.class_names == val.class_names
    assert train.image(len(train.labels) - 1).size == (224, 224)
