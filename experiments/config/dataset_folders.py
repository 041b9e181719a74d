"""The images in class folders, by a walk that ends whatever the symbolic links are. Imports no torch.

Links to folders and files elsewhere are followed, since that is how subsets of large datasets are made. Paths are
bytes, so that names in any encoding work.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import deque
from collections.abc import Iterator
from functools import lru_cache

from experiments.errors import SettingsError, printable

EXTENSIONS = (b".jpg", b".jpeg", b".png", b".ppm", b".bmp", b".pgm", b".tif", b".tiff", b".webp")
"""Extensions of image files, as in torchvision."""

Inode = tuple[int, int]


def class_folders(root: bytes) -> list[bytes]:
    """The names of the folders in `root`, sorted, without links to `root` itself or to a folder above it.

    Raises:
        SettingsError: if it can't be listed.
    """
    above = _ancestors(root)
    return sorted(e.name for e in _entries(root) if _is_folder(e) and _inode(e.path) not in above)


def files_in(root: bytes, folder: bytes, extensions: tuple[bytes, ...]) -> list[bytes]:
    """The paths, from `root`, of the files under its subfolder `folder`, in the order of torchvision's ImageFolder.

    Each folder is entered once, by a path without links if there is one, and never from inside itself. Files are
    regular files and links to them; broken links, too, so that whoever reads the image learns that it is gone.

    Raises:
        SettingsError: if a folder can't be listed.
    """
    top = os.path.join(root, folder)
    names: dict[bytes, list[bytes]] = {}
    entered: set[Inode] = set()
    pending = deque([(folder, _ancestors(top) - {_inode(top)})])
    while pending:
        here, above = pending.popleft()
        inode = _inode(os.path.join(root, here))
        if inode in above or inode in entered:
            continue
        entered.add(inode)
        names[here] = []
        for entry in sorted(_entries(os.path.join(root, here)), key=lambda entry: entry.name):
            if _is_folder(entry):
                inside = os.path.join(here, entry.name)
                if entry.is_symlink():
                    pending.append((inside, above | {inode} | (_ancestors(entry.path) - {_inode(entry.path)})))
                else:
                    pending.appendleft((inside, above | {inode}))
            elif entry.name.lower().endswith(extensions) and _is_file(entry):
                names[here].append(entry.name)
    return [os.path.join(here, name) for here in sorted(names) for name in names[here]]


def _entries(folder: bytes) -> Iterator[os.DirEntry[bytes]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except OSError as error:
        raise SettingsError(f"cannot list the folder {os.fsdecode(folder)}: {error.strerror}") from error


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno == errno.ELOOP:  # a link to itself
            return False
        raise SettingsError(f"cannot read {os.fsdecode(entry.path)}: {error.strerror}") from error


def _is_file(entry: os.DirEntry[bytes]) -> bool:
    """Whether it is a regular file, or a link to one or to nothing; not a FIFO, socket or device."""
    try:
        if entry.is_file():
            return True
        return entry.is_symlink() and not os.path.exists(entry.path)
    except OSError:
        return True


def _inode(path: bytes) -> Inode:
    try:
        status = os.stat(path)
    except OSError as error:
        raise SettingsError(f"cannot read {os.fsdecode(path)}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _ancestors(folder: bytes) -> frozenset[Inode]:
    """The folder and all folders above it, on its path and, where that has links, on its real path."""
    inodes = set()
    for path in {os.path.abspath(folder), os.path.realpath(folder)}:
        inodes.add(_inode(path))
        while path != (path := os.path.dirname(path)):
            inodes.add(_inode(path))
    return frozenset(inodes)


def folder_name(path: str | None) -> str:
    """The default name of the dataset in a folder: `flowers` for .../flowers."""
    if path is None:
        raise SettingsError("data.path is not set: where are the data? For example data.path=/data/flowers")
    folder = os.path.abspath(os.path.expanduser(path))
    return printable(os.path.basename(folder) or folder)


@lru_cache(maxsize=64)  # read once per configuration of a study
def dataset_version(name: str, path: str, reader: str, train: str, val: str) -> str | None:
    """A digest that distinguishes datasets named after equally named folders; None for data with another name, or that
    do not exist.

    For class folders it is made from the names of classes and images, wherever the folder is; for any other format,
    from the path.
    """
    remote = "://" in path
    folder = os.fsencode(path if remote else os.path.abspath(os.path.expanduser(path)))
    if name != folder_name(path) or not (remote or os.path.isdir(folder)):
        return None
    digest = hashlib.blake2b(digest_size=8)
    if reader != "folder":
        digest.update(folder)
        return digest.hexdigest()
    try:
        for part in (train, val):
            root = os.path.join(folder, os.fsencode(part))
            for class_name in class_folders(root) if os.path.isdir(root) else ():  # a hold-out needs no val
                digest.update(b"\0".join([class_name, *files_in(root, class_name, EXTENSIONS), b"\0"]))
            digest.update(b"\0\0")
    except SettingsError:  # refused, with the reason, where images are read
        return None
    return digest.hexdigest()
