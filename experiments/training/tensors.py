"""Tensors in files: written atomically, and read without running any code that a file names."""

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
    """A file that is no file of tensors, or not of tensors alone. The message is one line without the file's name."""


def save(value: Any, path: Path) -> None:
    """torch.save, atomically.

    Raises:
        OSError: if it cannot be written. It names the file.
    """
    with replacing(path, "wb") as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:  # torch's writer fails again as it closes a file that it could not write
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise


def load(path: Path, allowed: Sequence[Callable] = ()) -> Any:
    """torch.load on the CPU, of tensors, numbers, strings and collections of these alone; or safetensors.

    Args:
        allowed: further classes whose instances a file may contain.

    Raises:
        UnreadableError: if there is no such file, or it contains anything else.
    """
    try:
        with opened(path) as file, torch.serialization.safe_globals([*allowed]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about kinds of tensors that are refused here
            if path.suffix == ".safetensors":
                from safetensors.torch import load as parse

                return parse(file.read())
            return torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UnreadableError(in_words(OSError(error.errno, error.strerror))) from error
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise UnreadableError(_why(error)) from error


def _why(error: Exception) -> str:
    """Not in torch's words, which advise to run the code that a file names."""
    text = str(error)
    if isinstance(error, pickle.UnpicklingError) and (named := re.search(r"GLOBAL ([\w.]+)", text)):
        return f"it contains {named[1]}, and only tensors are read from files; save the state dict alone"
    if "TorchScript" in text:
        return "it is TorchScript, which is code; save the state dict alone"
    if type(error).__name__ == "SafetensorError":
        return printable(text)
    return f"it is damaged, or was not written by torch.save ({type(error).__name__})"


def state_dict(value: Any) -> dict[str, Tensor]:
    """The state dict that a value is, or that it wraps as this project's, the authors' and other checkpoints do.

    Raises:
        UnreadableError: if there is none.
    """
    for wrapper in ("network", "model", "state_dict"):
        if isinstance(value, Mapping) and isinstance(value.get(wrapper), Mapping):
            value = value[wrapper]
            break
    if not isinstance(value, Mapping) or not value:
        raise UnreadableError("it contains no state dict")
    for name, tensor in value.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UnreadableError(printable(f"it contains no state dict: {str(name)[:60]} is not a tensor"))
        if not _is_plain(tensor):
            raise UnreadableError(printable(f"{name[:60]} is not a dense tensor of real numbers"))
    return dict(value)


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is of real numbers, all in memory: a small file may claim a million rows that share memory."""
    if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.is_meta:
        return False
    return tensor.nbytes <= tensor.untyped_storage().nbytes()
