"""Images inside tar files, read at their offsets.

timm's reader is not used: it keeps one file open, whose position loader workers forked later would share; it has a
Python object per image, which they would copy; and it drops members that are links.
"""

from __future__ import annotations

import io
import os
import posixpath
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments.config.dataset_folders import EXTENSIONS
from experiments.config.settings import Data
from experiments.data.images import BrokenImageError, FileImages, Jpeg, check_same_classes, data_folder, decode
from experiments.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class TarImages(FileImages):
    """Images at `paths` inside tar files."""

    form = "tar"
    archives: tuple[str, ...]
    archive_indices: np.ndarray
    """(N,): in which of the archives each image is."""
    offsets: np.ndarray
    """(N,): bytes from the archive's beginning."""
    sizes: np.ndarray
    """(N,): in bytes."""

    def image(self, index: int) -> Image.Image | Jpeg:
        if self.sizes[index] == NOTHING:
            raise BrokenImageError(self.name(index), "a link to a file that is not in the tar file")
        try:
            descriptor = os.open(self.archives[self.archive_indices[index]], os.O_RDONLY)
            try:
                data = os.pread(descriptor, int(self.sizes[index]), int(self.offsets[index]))
            finally:
                os.close(descriptor)
        except OSError as error:
            raise BrokenImageError(self.name(index), error.strerror or str(error)) from error
        return decode(io.BytesIO(data), self.name(index), self.lazy)

    def name(self, index: int) -> str:
        return os.path.join(self.archives[self.archive_indices[index]], os.fsdecode(self.paths[index]))


def load(data: Data) -> tuple[TarImages, TarImages]:
    """`data.path/train.tar`, or all tar files of the folder `data.path/train`, and the same of `val`.

    An image's class is the folder that contains it, or if it is in none the innermost tar file. Classes and images are
    in the order of a folder of the same images.
    """
    path = data_folder(data)
    if not path.is_dir():
        raise SettingsError(f"data.path={data.path} is not a folder")
    train, val = _root(path, data.train), _root(path, data.val)
    parts = {root: _images(root) for root in dict.fromkeys([train, val])}  # one, with a hold-out
    check_same_classes(parts[train].class_names, parts[val].class_names, str(train), str(val))
    return parts[train], parts[val]


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
    """An image in a tar file, or in a tar file inside it. Members sort in the order of a folder of the same images."""

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
            with tarfile.open(archive, "r:") as file:  # "r:" refuses compressed files, whose members have no offsets
                members += _members(file, number, archive.stem if root.is_dir() else "")
        except (OSError, tarfile.TarError) as error:
            reason = " ".join(str(error).split())
            raise SettingsError(f"{archive} cannot be read as a tar file of images: {reason}") from error
    if not members:
        raise SettingsError(f"{root} has no images ({', '.join(os.fsdecode(extension) for extension in EXTENSIONS)})")
    members.sort()
    if not members[0].class_name:
        raise SettingsError(f"in {root}, {os.fsdecode(members[0].file)} is in no folder that would be its class")
    classes, labels = np.unique([member.class_name for member in members], return_inverse=True)
    return TarImages(
        archives=tuple(map(str, archives)),
        archive_indices=np.array([member.archive for member in members]),
        offsets=np.array([member.offset for member in members]),
        sizes=np.array([member.size for member in members]),
        paths=np.array([os.path.join(member.folder, member.file) for member in members]),
        labels=labels,
        class_names=tuple(map(os.fsdecode, classes)),
    )


def _members(file: tarfile.TarFile, archive: int, stem: str, start: int = 0, outer: str = "") -> Iterator[_Member]:
    """The images of a tar file that begins at byte `start` of the archive, in which its path is `outer`. `stem` is the
    class of images that are in no folder."""
    regular: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    while info := file.next():
        file.members.clear()  # type: ignore[attr-defined]  # of which there may be millions
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
    """The end of a chain of links; if it is a cycle, one of its links."""
    visited = set()
    while path in links and path not in visited:
        visited.add(path)
        path = links[path]
    return path
