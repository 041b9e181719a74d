"""Images inside tar files, read at their offsets.

timm's reader keeps one open file, which loader workers forked later would share, each moving the others' position; a
Python object per image, which they would copy; and drops members that are links to others. So the index is ours.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.config.dataset_folders import EXTENSIONS
from experiments.config.settings import Data
from experiments.data.images import BrokenImageError, Jpeg, decode, fingerprint, same_classes
from experiments.errors import SettingsError


@dataclass(frozen=True)
class TarImages:
    """Images in `files`, each at an offset."""

    files: tuple[str, ...]
    file: np.ndarray
    """(N,): in which of the files."""
    offsets: np.ndarray
    sizes: np.ndarray
    names: np.ndarray
    """(N,) bytes: paths inside the file."""
    labels: np.ndarray
    class_names: tuple[str, ...]
    lazy: bool = False

    @property
    def classes(self) -> int:
        return len(self.class_names)

    def image(self, index: int) -> Image.Image | Jpeg:
        if self.sizes[index] == NOTHING:
            raise BrokenImageError(self.name(index), "a link to what is not in the tar file")
        try:
            descriptor = os.open(self.files[self.file[index]], os.O_RDONLY)
            try:
                data = os.pread(descriptor, int(self.sizes[index]), int(self.offsets[index]))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BrokenImageError(self.name(index), error.strerror) from error
        return decode(io.BytesIO(data), self.name(index), self.lazy)

    def name(self, index: int) -> str:
        return os.path.join(self.files[self.file[index]], os.fsdecode(self.names[index]))

    def keys(self) -> list[bytes]:
        classes = [*map(os.fsencode, self.class_names)]
        named = zip(self.labels.tolist(), self.names.tolist(), strict=True)
        return [classes[label] + b"/" + os.path.basename(name) for label, name in named]

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint("tar", [*map(os.fsencode, self.class_names)], self.labels, self.names.tolist())


def load(data: Data) -> tuple[TarImages, TarImages]:
    """`data.path/train.tar`, or all tar files of the folder `data.path/train`, and the same of `val`.

    An image's class is the folder that it lies in, or the tar file (tars inside tars count) where it lies in none.
    Classes and images are in the order of a folder of the same images.
    """
    path = Path(data.path).expanduser()
    if not path.is_dir():
        raise SettingsError(f"data.path={data.path} is not a folder")
    roots = [_root(path, part) for part in (data.train, data.val)]
    parts = {root: _images(root) for root in dict.fromkeys(roots)}  # a hold-out is of one part alone
    same_classes(*(parts[root].class_names for root in roots), *map(str, roots))
    return tuple(parts[root] for root in roots)


def _root(path: Path, part: str) -> Path:
    """The tar file of a part, or its folder of tar files."""
    if (path / f"{part}.tar").is_file():
        return path / f"{part}.tar"
    root = path / part
    if not root.is_dir():
        raise SettingsError(f"there is neither {path / part}.tar nor a folder {root} of tar files")
    if not _tar_files(root):
        raise SettingsError(f"there is no .tar file in {root}")
    return root


def _tar_files(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("*.tar") if path.is_file())


class _Member(NamedTuple):
    """An image in a tar file, or in a tar file inside it. Members sort as a folder of the same images is listed."""

    class_name: bytes
    folder: bytes
    file: bytes
    archive: int
    offset: int
    size: int


NOTHING = -1
"""Size of a link whose target is not in the tar file."""


def _images(root: Path) -> TarImages:
    archives = _tar_files(root) if root.is_dir() else [root]
    members: list[_Member] = []
    for number, archive in enumerate(archives):
        try:
            with tarfile.open(archive, "r:") as file:  # "r:" refuses compression, which has no offsets
                members += _members(file, number, archive.stem if root.is_dir() else "")
        except (OSError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise SettingsError(f"{archive} cannot be read as a tar file of images: {reason}") from error
    if not members:
        raise SettingsError(f"{root} has no images ({', '.join(os.fsdecode(one) for one in EXTENSIONS)})")
    members.sort()
    if not members[0].class_name:
        raise SettingsError(f"in {root}, {os.fsdecode(members[0].file)} lies in no folder that would be its class")
    classes = sorted({member.class_name for member in members})
    label = {name: index for index, name in enumerate(classes)}
    return TarImages(
        files=tuple(map(str, archives)),
        file=np.array([member.archive for member in members]),
        offsets=np.array([member.offset for member in members]),
        sizes=np.array([member.size for member in members]),
        names=np.array([os.path.join(member.folder, member.file) for member in members]),
        labels=np.array([label[member.class_name] for member in members], np.int64),
        class_names=tuple(map(os.fsdecode, classes)),
    )


def _members(file: tarfile.TarFile, archive: int, stem: str, start: int = 0, outer: str = "") -> Iterator[_Member]:
    """The images of a tar file that begins at byte `start` of the archive, where its name is `outer`. `stem` is the
    class of images that lie in no folder."""
    regular: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    while info := file.next():
        file.members.clear()  # of which there may be millions
        path = posixpath.normpath(info.name)
        if info.issparse():
            raise tarfile.TarError(f"its member {info.name} is sparse")
        if info.isreg():
            regular[path] = start + info.offset_data, info.size  # of members of one name the last counts, as in tar
            if path.lower().endswith(".tar"):
                with tarfile.open(fileobj=file.extractfile(info), mode="r:") as inner:
                    inside = os.path.join(outer, path)
                    inner_stem = posixpath.splitext(posixpath.basename(path))[0]
                    yield from _members(inner, archive, inner_stem, start + info.offset_data, inside)
        elif info.issym():
            links[path] = posixpath.normpath(posixpath.join(posixpath.dirname(path), info.linkname))
        elif info.islnk():
            links[path] = posixpath.normpath(info.linkname)
    for path in (*regular, *links):
        folder, name = map(os.fsencode, posixpath.split(path))
        if name.lower().endswith(EXTENSIONS):
            offset, size = regular.get(_target(path, links), (0, NOTHING))
            class_name = os.path.basename(folder) or os.fsencode(stem)
            yield _Member(class_name, os.path.join(os.fsencode(outer), folder), name, archive, offset, size)


def _target(path: str, links: dict[str, str]) -> str:
    """What a chain of links ends at; somewhere in it, if it is a ring."""
    passed = set()
    while path in links and path not in passed:
        passed.add(path)
        path = links[path]
    return path
