"""Tensors in files: written in place or not at all, and read without running what a file names."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from roadmap.common.files import in_words, opened, printable, replacing


class UnreadableError(ValueError):
    """A file that holds no tensors, or more than these. The message is one line and does not name the file."""


def save(value: Any, path: Path) -> None:
    """torch.save, in place or not at all.

    Raises:
        OSError: if it cannot be written. It names the file.
    """
    with replacing(path, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's writer fails once more as it closes what could not be written
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, allowed: Sequence[Callable] = ()) -> Any:
    """torch.load on the CPU, of nothing but tensors, numbers, texts and collections of them, or safetensors.

    Args:
        allowed: further classes whose instances a file may hold.

    Raises:
        UnreadableError: if there is no such file, or it holds anything else.
    """
    try:
        with opened(path) as file, torch.serialization.safe_globals([*allowed]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, of kinds of tensors that are refused here
            if path.suffix == ".safetensors":
                from safetensors.torch import load as parse

                return parse(file.read())
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UnreadableError(in_words(OSError(error.errno, error.strerror))) from error
    except Exception as error:  # what a foreign file raises depends on where it is damaged
        raise UnreadableError(_why(error)) from error


def _why(error: Exception) -> str:
    """In our words: torch's advise to run the code that a file names."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL ([\w.]+)", text)):
        return f"it holds {named[1]}, and nothing but tensors is read from a file; save the state dict alone"
    if "TorchScript" in text:
        return "it is TorchScript, which is code; save the state dict alone"
    if type(error).__name__ == "SafetensorError":
        return printable(text)
    return f"it is damaged, or was not written by torch.save ({type(error).__name__})"


def state_dict(value: Any) -> dict[str, Tensor]:
    """The state dict that a value is or wraps, as checkpoints of ours, the authors' and others do.

    Raises:
        UnreadableError: if it is none.
    """
    for wrapper in ("network", "model", "state_dict"):
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
            break
    if not isinstance(value, Mapping) or not value:
        raise UnreadableError("it holds no state dict")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UnreadableError(printable(f"it holds no state dict: {str(name)[:60]} is no tensor"))
        if not _is_plain(tensor):
            raise UnreadableError(printable(f"{name[:60]} is no dense tensor of real numbers"))
    return dict(value)


def _is_plain(tensor: Tensor) -> bool:
    """Real numbers, each of them in memory: a small file may claim a million rows that are all the same one."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()
