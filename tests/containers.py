"""The same class folders in every container that can be read: what a reader's `data.path` would name."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

SPLITS = {"train": "train", "val": "validation"}
"""A folder's parts, and what a Hugging Face dataset calls them."""


def images(folder: Path) -> list[tuple[Path, int]]:
    """(file, label) of a folder of class folders, in order."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(file, label) for label, one in enumerate(classes) for file in sorted(one.iterdir())]


def as_tar(folder: Path, to: Path) -> None:
    for part in SPLITS:
        with tarfile.open(to / f"{part}.tar", "w", dereference=True) as tar:
            tar.add(folder / part, ".")


def as_shards(folder: Path, to: Path, label: Callable[[int], object] = lambda label: label) -> None:
    """Three shards of webdataset a part. `label` is what is written of a label."""
    import io

    splits = {}
    for part in SPLITS:
        files, names, lengths = images(folder / part), [], []
        for shard in range(3):
            names.append(f"{part}-{shard}.tar")
            lengths.append(len(files[shard::3]))
            with tarfile.open(to / names[-1], "w", dereference=True) as tar:
                for number, (file, is_of) in enumerate(files[shard::3]):
                    tar.add(file, f"{number:03}{file.suffix.lower()}")
                    text = str(label(is_of)).encode()
                    info = tarfile.TarInfo(f"{number:03}.cls")
                    info.size = len(text)
                    tar.addfile(info, io.BytesIO(text))
        splits[part] = {"name": part, "num_samples": sum(lengths), "filenames": names, "shard_lengths": lengths}
    classes = len({is_of for _, is_of in images(folder / "train")})
    (to / "_info.json").write_text(json.dumps({"num_classes": classes, "splits": splits}))


def as_hub(folder: Path, to: Path, label: Callable[[int], object] = lambda label: label) -> None:
    """Three Parquet files a split, of columns `image` and `label`."""
    import datasets

    classes = sorted(path.name for path in (folder / "train").iterdir())
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=classes))
    for part, split in SPLITS.items():
        files = images(folder / part)
        for number in range(3):
            chosen = files[number * len(files) // 3 : (number + 1) * len(files) // 3]
            rows = {
                "image": [
                    {"bytes": file.read_bytes(), "path": str(file.relative_to(folder / part))} for file, _ in chosen
                ],
                "label": [label(is_of) for _, is_of in chosen],
            }
            datasets.Dataset.from_dict(rows, features).to_parquet(to / f"{split}-{number:05}-of-00003.parquet")
