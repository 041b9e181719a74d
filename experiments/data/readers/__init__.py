"""Sources of images, one module per reader: data.reader=NAME is `load` of the module NAME.

`load(data)` returns the two parts that `data.train` and `data.val` name at `data.path`, both `Images` or both `Stream`,
and raises SettingsError, in one line, if they are missing or inconsistent with the settings or each other.
"""

from __future__ import annotations

import os
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec

from experiments.config.settings import READERS, Data
from experiments.data.images import Images, Stream
from experiments.errors import SettingsError
from roadmap.common.bounds import did_you_mean

NEEDS = {"wds": ("webdataset",), "hfds": ("datasets",), "hfids": ("datasets",)}
"""Optional libraries that readers need."""


def load_images(data: Data) -> tuple[Images, Images] | tuple[Stream, Stream]:
    """The images to train on and those to evaluate on.

    Raises:
        SettingsError: if they are missing or inconsistent with the settings or each other; in one line.
    """
    path = data.path and os.path.expanduser(data.path)
    parts = _load(data.reader, data.name, path, data.train, data.val, data.num_classes)
    for part in parts:
        _check_classes(data, part.classes)
    return parts


def check_folders(data: Data) -> None:
    """Check that the class folders of data.reader=folder exist, without reading them.

    Raises:
        SettingsError: if not, as by `load_images`.
    """
    from experiments.data.readers.folder import find_parts

    *_, classes = find_parts(data)
    _check_classes(data, len(classes))


def _check_classes(data: Data, classes: int) -> None:
    if data.num_classes not in (None, classes):
        raise SettingsError(
            f"data.num_classes={data.num_classes}, but {data.path or data.name} has {classes} classes; "
            "set data.num_classes=null to take it from the data"
        )


@lru_cache(maxsize=1)  # a run loads its data more than once, and listing 1.3 million files takes seconds
def _load(reader: str, name: str, path: str | None, train: str, val: str, num_classes: int | None) -> tuple:
    if reader not in READERS:
        raise SettingsError(
            f"data.reader must be one of {', '.join(READERS)}, not {reader!r}{did_you_mean(reader, READERS)}"
        )
    if reader != "sample" and path is None:
        raise SettingsError(f"data.path is not set: with data.reader={reader} it says where the data are")
    check_libraries(reader)
    data = Data(name=name, reader=reader, path=path, train=train, val=val, num_classes=num_classes)
    return import_module(f"experiments.data.readers.{reader}").load(data)


def check_libraries(reader: str) -> None:
    """Check that the libraries that a reader needs are installed."""
    for module in NEEDS.get(reader, ()):
        if find_spec(module) is None:
            raise SettingsError(f"data.reader={reader} needs {module}: pip install -e '.[readers]'")
