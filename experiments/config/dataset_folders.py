"""What lies in folders of images: a walk that ends, whatever is linked to what. Imports no torch.

Links to folders and files elsewhere are followed, for that is how subsets of large datasets are made. Paths are bytes,
so that names in any encoding work.
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
"""Of image files: torchvision's."""

Inode = tuple[int, int]


def class_folders(root: bytes) -> list[bytes]:
    """The names of the folders in `root`, sorted; not of links to `root` itself or to what it lies in.

    Raises:
        SettingsError: if it can't be listed.
    """
    above = _ancestors(root)
    return sorted(e.name for e in _entries(root) if _is_folder(e) and _inode(e.path) not in above)


def files_in(root: bytes, folder: bytes, extensions: tuple[bytes, ...]) -> list[bytes]:
    """The paths, from `root`, of the files under its subfolder `folder`, in the order of torchvision's ImageFolder.

    Each folder is entered once, by a path without links if there is one, and never from inside itself. Files are
    regular files and links to them, or to nothing: who asks for an image must hear that it is gone.

    Raises:
        SettingsError: if a folder can't be listed.
    """
    top = os.path.join(root, folder)
    found: dict[bytes, list[bytes]] = {}
    entered: set[Inode] = set()
    pending = deque([(folder, _ancestors(top) - {_inode(top)})])
    while pending:
        here, above = pending.popleft()
        inode = _inode(os.path.join(root, here))
        if inode in above or inode in entered:
            continue
        entered.add(inode)
        files = []
        for entry in sorted(_entries(os.path.join(root, here)), key=lambda entry: entry.name):
            if _is_folder(entry):
                inside = os.path.join(here, entry.name)
                if entry.is_symlink():
                    pending.append((inside, above | {inode} | (_ancestors(entry.path) - {_inode(entry.path)})))
                else:
                    pending.appendleft((inside, above | {inode}))
            elif entry.name.lower().endswith(extensions) and _is_file(entry):
                files.append(entry.name)
        found[here] = files
    return [os.path.join(here, name) for here in sorted(found) for name in found[here]]


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
        raise SettingsError(f"cannot look into {os.fsdecode(entry.path)}: {error.strerror}") from error


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
        raise SettingsError(f"cannot look into {os.fsdecode(path)}: {error.strerror}") from error
    return status.st_dev, status.st_ino


def _ancestors(folder: bytes) -> frozenset[Inode]:
    """The folder and all that it lies in, by its path and, where that has links, by its real path."""
    found = set()
    for path in {os.path.abspath(folder), os.path.realpath(folder)}:
        found.add(_inode(path))
        while path != (path := os.path.dirname(path)):
            found.add(_inode(path))
    return frozenset(found)


def folder_name(path: str | None) -> str:
    """What a folder without another name is called: `flowers` for .../flowers."""
    if path is None:
        raise SettingsError("data.path is not set: say where the data are, like data.path=/data/flowers")
    folder = os.path.abspath(os.path.expanduser(path))
    return printable(os.path.basename(folder) or folder)


@lru_cache(maxsize=64)  # a study asks for it once per configuration
def dataset_version(name: str, path: str, reader: str, train: str, val: str) -> str | None:
    """A digest that tells two datasets apart that are both called after their folder; None for data that have a name of
    their own, or are not there.

    Of a folder of class folders it is made from the names of classes and images, wherever the folder lies; of any other
    form, from the path.
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
    except SettingsError:  # who reads the images says why
        return None
    return digest.hexdigest()
