"""Folders of images, ordinary and hostile: the walk ends, in torchvision's order, with each image once."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import IMG_EXTENSIONS

from experiments.config.dataset_folders import EXTENSIONS, dataset_version, files_in, folder_name
from experiments.config.settings import Data
from experiments.data.images import BrokenImageError
from experiments.data.readers import load_images
from experiments.errors import SettingsError, printable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, three training images and one validation image each."""
    for part, count in (("train", 3), ("val", 1)):
        for name in ("a", "b"):
            (tmp_path / "flowers" / part / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (2, 2)).save(tmp_path / "flowers" / part / name / f"{number}.png")
    return tmp_path / "flowers"


def images(folder: Path) -> list[str]:
    """The training images, as paths from the folder."""
    train, _ = load_images(Data("x", "folder", str(folder)))
    return [os.path.relpath(train.name(index), folder / "train") for index in range(len(train.labels))]


ORDINARY = ["a/0.png", "a/1.png", "a/2.png", "b/0.png", "b/1.png", "b/2.png"]


def fifo(path: Path) -> None:
    os.mkfifo(path)


def link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_suffix(".pipe"))
    path.symlink_to(path.with_suffix(".pipe").name)


def socket_at(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server, pytest.MonkeyPatch.context() as patch:
        patch.chdir(path.parent)  # a socket's path is short
        server.bind(path.name)


def link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder_like_an_image(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("make", [fifo, link_to_fifo, socket_at, link_to_device, folder_like_an_image])
def test_what_is_no_regular_file_is_no_image(make: Callable[[Path], None], folder: Path) -> None:
    make(folder / "train" / "a" / "3.jpg")
    assert images(folder) == ORDINARY


@pytest.mark.parametrize("target", ["..", "../..", ".", "loop", "../a", "../../../flowers", "gone"])
@pytest.mark.parametrize("folder_of_link", ["train/a", "train/a/deeper", "train"])
def test_links_back_are_not_entered(folder_of_link: str, target: str, folder: Path) -> None:
    (folder / folder_of_link).mkdir(exist_ok=True)
    (folder / folder_of_link / "loop").symlink_to(target)
    assert images(folder) == ORDINARY


def test_folder_is_entered_once_by_its_own_path(folder: Path) -> None:
    """Though links to it, and to what it lies in, are listed before it."""
    (folder / "train" / "a" / "deeper").mkdir()
    Image.new("RGB", (2, 2)).save(folder / "train" / "a" / "deeper" / "3.png")
    (folder / "train" / "a" / "alias").symlink_to("deeper")
    (folder / "train" / "a" / "deeper" / "again").symlink_to(folder / "train" / "a" / "deeper")
    assert images(folder) == sorted([*ORDINARY, "a/deeper/3.png"], key=os.path.dirname)


def test_subset_made_of_links_is_the_images_that_it_links_to(folder: Path) -> None:
    subset = folder.parent / "subset"
    (subset / "train" / "b").mkdir(parents=True)
    (subset / "train" / "a").symlink_to(folder / "train" / "a")
    (subset / "train" / "b" / "part").symlink_to(folder / "train" / "b")
    (subset / "train" / "b" / "one.png").symlink_to(folder / "val" / "b" / "0.png")
    (subset / "val").symlink_to(folder / "val")
    assert images(subset) == [*ORDINARY[:3], "b/one.png", "b/part/0.png", "b/part/1.png", "b/part/2.png"]


def test_order_is_torchvisions(folder: Path) -> None:
    for name in ("a-b", "a b", "Z", "ä", "10", "9", "a/sub", "a/sub-2", "a/sub/sub"):
        for part in ("train", "val"):
            (folder / part / name).mkdir()
            for file in ("z.PNG", "ä.jpeg", "_.webp", "10.tif", "9.tiff", "x.txt"):
                (folder / part / name / file).write_bytes(b"x")
    truth = ImageFolder(folder / "train")
    train, _ = load_images(Data("x", "folder", str(folder)))
    assert list(train.class_names) == truth.classes
    assert [(train.name(index), label) for index, label in enumerate(train.labels)] == truth.samples
    assert {extension.decode() for extension in EXTENSIONS} == {*IMG_EXTENSIONS}


@pytest.mark.parametrize("name", [b"\xff\xfe.jpg", b"a\x1b[31m\n.jpg"])
def test_any_name_works_and_is_told_without_control_characters(name: bytes, folder: Path) -> None:
    path = os.path.join(os.fsencode(folder / "train" / "a"), name)
    Image.new("RGB", (2, 2), "red").save(folder / "x.png")
    os.rename(folder / "x.png", path)
    train, _ = load_images(Data("x", "folder", str(folder)))
    index = [train.name(index) for index in range(7)].index(os.fsdecode(path))
    assert train.image(index).getpixel((0, 0)) == (255, 0, 0)
    Path(os.fsdecode(path)).write_bytes(b"")
    with pytest.raises(BrokenImageError, match=r": an empty file$") as error:
        train.image(index)
    assert str(error.value).isprintable()


def test_class_in_any_encoding(folder: Path) -> None:
    for part in ("train", "val"):
        os.rename(folder / part / "b", os.path.join(os.fsencode(folder / part), b"\xe4"))
    train, _ = load_images(Data("x", "folder", str(folder)))
    assert train.keys()[3] == b"\xe4/0.png"
    assert train.image(3).size == (2, 2)
    (folder / "val" / "ü").mkdir()
    os.rename(os.path.join(os.fsencode(folder / "val"), b"\xe4"), folder / "val" / "c")
    with pytest.raises(SettingsError, match=r"lacks \\xe4 and adds c and ü"):
        load_images(Data("x", "folder", str(folder), num_classes=2))


def test_what_became_a_fifo_after_it_was_listed_is_a_broken_image(folder: Path) -> None:
    train, _ = load_images(Data("x", "folder", str(folder)))
    (folder / "train" / "a" / "0.png").unlink()
    os.mkfifo(folder / "train" / "a" / "0.png")
    with pytest.raises(BrokenImageError, match="not a regular file"):
        train.image(0)


@pytest.mark.parametrize(
    ("target", "reason"), [("gone", "No such file"), ("3.jpg", "Too many levels of symbolic links")]
)
def test_link_to_nothing_is_a_broken_image(target: str, reason: str, folder: Path) -> None:
    (folder / "train" / "a" / "3.jpg").symlink_to(target)
    train, _ = load_images(Data("x", "folder", str(folder)))
    assert len(train.labels) == 7
    with pytest.raises(BrokenImageError, match=reason):
        train.image(3)


def test_folder_that_cannot_be_listed_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = os.fsencode(folder / "train" / "b")
    scandir = os.scandir

    def refusing(path: bytes) -> object:
        if path == closed:
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr("os.scandir", refusing)
    with pytest.raises(SettingsError, match=f"cannot list the folder {folder}/train/b: Permission denied"):
        load_images(Data("x", "folder", str(folder)))
    assert dataset_version("flowers", str(folder), "folder", "train", "val") is None


def test_printable() -> None:
    assert printable("tulip é 花") == "tulip é 花"
    assert printable("\x1b[2J\r\n\udcff\u202e") == r"\x1b[2J\r\n\xff\u202e"
    assert printable(printable("\x00")) == printable("\x00")
    assert str(SettingsError("a\nb")) == r"a\nb"


def test_folder_is_called_as_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert folder_name(str(folder)) == folder_name(f"{folder}/") == folder_name(f"{folder}/train/..") == "flowers"
    assert folder_name("/data/\udcff\n") == r"\xff\n"
    monkeypatch.chdir(folder)
    assert folder_name(".") == "flowers"


def test_study_makes_one_digest_of_a_folder(folder: Path, study_runs: Callable) -> None:
    dataset_version.cache_clear()
    runs = study_runs("rung=resnet,gelu", "seed=0,1", "recipe.batch_size=2", "data=folder", f"data.path={folder}")
    assert len({run.identity for run in runs}) == 4
    assert dataset_version.cache_info().misses == 1
    assert files_in(os.fsencode(folder), b"train/a", EXTENSIONS) == [b"train/a/%d.png" % number for number in range(3)]
