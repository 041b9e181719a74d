"""The formats of an export, each checked before a file of it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import save

from experiments.errors import SettingsError
from experiments.evaluate.model import find_model
from experiments.export.card import model_card
from experiments.export.export import Export
from experiments.export.programs import ExportError, to_onnx, to_pt2
from experiments.export.run import RunToExport
from experiments.export.timm_layout import to_timm
from roadmap.common.files import write

FILES = {
    "safetensors": ("model.safetensors",),
    "timm": ("timm/model.safetensors", "timm/config.json"),
    "torch": ("model.pt2",),
    "onnx": ("model.onnx",),
}
"""{format: its files}."""
Say = Callable[[str], None]


def export_run(
    run: RunToExport, out: Path, formats: Sequence[str], *, trust: bool, licence: str | None, say: Say
) -> list[ExportError]:
    """Write a run's network to a folder in these formats, and the model card. Returns why the others are missing.

    The folder's files of an earlier export are removed, so that all of them are of these weights.

    Raises:
        SettingsError: if the weights can't be read, or fit no such network.
        OSError: if a file can't be written.
    """
    model = find_model(run.weights, None, None, trust=trust)
    model.network.float().eval().requires_grad_(False).to(memory_format=torch.contiguous_format)
    export, failures, written = Export(run, model), [], []
    for folder in (out, out / "timm"):
        if folder.is_symlink():
            raise SettingsError(f"{folder} is a link; name a folder to write to with --out")
        folder.mkdir(parents=True, exist_ok=True)
    for name in (name for names in FILES.values() for name in names):
        (out / name).unlink(missing_ok=True)
    for format in formats:
        try:
            contents, difference = WRITERS[format](export)
        except ExportError as error:
            failures.append(error)
            say(f"{run.directory.name}: no {format}: {error}")
            continue
        for name, content in zip(FILES[format], contents, strict=True):
            write(out / name, content)
        written.append(format)
        size = sum(map(len, contents)) / 1e6
        equal = "" if difference is None else f", within {difference:.0e} of the network's logits"
        say(f"{out / FILES[format][0]}, {size:.1f} MB{equal}")
    with suppress(OSError):
        (out / "timm").rmdir()  # if it is empty
    write(out / "README.md", model_card(export, written, licence))
    return failures


def _safetensors(export: Export) -> tuple[list[bytes], None]:
    state = {key: tensor.contiguous() for key, tensor in export.network.state_dict().items()}
    return [save(state, {"format": "pt"} | export.metadata)], None


def _timm(export: Export) -> tuple[list[bytes], float]:
    return to_timm(*export.timm_arguments, export.model)


def _torch(export: Export) -> tuple[list[bytes], float]:
    content, difference = to_pt2(export.traced, export.network)
    return [content], difference


def _onnx(export: Export) -> tuple[list[bytes], float]:
    content, difference = to_onnx(export.traced, export.network, export.metadata)
    return [content], difference


WRITERS: dict[str, Callable[[Export], tuple[list[bytes], float | None]]] = {
    "safetensors": _safetensors,
    "timm": _timm,
    "torch": _torch,
    "onnx": _onnx,
}
"""{format: what gives the contents of its FILES, and the largest relative difference of logits if it was checked}."""
