"""`init=`: the weights that a run starts from, checked and hashed before anything expensive. Imports no torch."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.config.timm_names import check_timm_name
from experiments.errors import SettingsError

LIBRARIES = ("torchvision", "timm")


@dataclass(frozen=True)
class Init:
    """Weights to start from. Their content is part of a run's identity; where they are stored is not."""

    source: str
    """As given: a run's directory, a file, torchvision:MODEL.WEIGHTS, or timm:MODEL.TAG."""
    file: str | None = None
    digest: str | None = None
    """SHA-256 of the file."""


def find_init(source: str | None) -> Init | None:
    """The weights of an `init=` setting.

    Raises:
        SettingsError: if there are none of that name.
    """
    if source is None:
        return None
    library, colon, name = source.partition(":")
    if colon and library in LIBRARIES:
        if library == "timm":
            check_timm_name(f"timm:{name.split('.')[0]}")
        elif "." not in name:
            raise SettingsError(f"{source} does not name its weights; for example torchvision:resnet50.IMAGENET1K_V1")
        return Init(source)
    path = Path(source)
    file = path / "weights.pt" if path.is_dir() else path
    if not file.is_file():
        if path.is_dir():
            raise SettingsError(f"{path} has no weights.pt: is it a run's directory, and is the run done?")
        raise SettingsError(
            f"there are no weights at {path}; name a run's directory, a file, torchvision:MODEL.WEIGHTS "
            "or timm:MODEL.TAG"
        )
    status = file.stat()
    return Init(source, str(file), _digest(file, status.st_mtime_ns, status.st_size))


@cache
def _digest(file: Path, modified: int, size: int) -> str:
    """SHA-256, computed once for a file as long as it stays the same."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
