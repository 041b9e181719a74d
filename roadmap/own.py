"""Layers that a design names by dotted path: found, made, and tried before anything is built of them.

Everything that can be wrong with one is a DesignError in one line, which begins with the field that names it.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from roadmap.bounds import did_you_mean
from roadmap.designs import Design, DesignError, Layer, as_list
from roadmap.dotted import is_of_packages, module_of
from roadmap.files import printable


def make_layer(layer: Layer, channels: int) -> nn.Module:
    """A layer of `Design.layers` for maps of so many channels."""
    return make(f"layers.{layer.name}", layer.target, channels, **keywords(layer.arguments))


def keywords(arguments: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    return {name: as_list(value) for name, value in arguments}


def make(field: str, path: str, *args: object, **kwargs: object) -> nn.Module:
    """A module of the class that a field of the design names.

    Raises:
        DesignError: if there is no such class, or it refuses the arguments.
    """
    try:
        made = class_at(path)
    except LookupError as error:
        raise DesignError(f"{field}: {path}: {error}") from error
    try:
        return made(*args, **kwargs)
    except Exception as error:  # whatever somebody's code may raise
        given = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        raise DesignError(f"{field}: {path}({', '.join(given)}) raises {_in_words(error)}") from error


def class_at(path: str) -> type[nn.Module]:
    """The class that a dotted path names. Its module is imported, from where Python looks.

    Raises:
        LookupError: if there is none, or it is no nn.Module. The message is one line.
    """
    name, within = path.rpartition(".")[2], module_of(path)
    try:
        module = import_module(within)
    except (Exception, SystemExit) as error:  # whatever somebody's code may raise
        raise LookupError(f"importing {within} raises {_in_words(error)}") from error
    found = getattr(module, name, None)
    if _is_module_class(found):
        return found
    if hasattr(module, name):
        raise LookupError(f"{name} is no class of nn.Module")
    known = [one for one, value in vars(module).items() if _is_module_class(value)]
    raise LookupError(f"{within} has no {name!r}{did_you_mean(name, known)}")


def foreign(design: Design) -> list[str]:
    """The dotted paths of a design that do not name a layer of torch.nn, timm.layers or roadmap: what must not be built
    of a design that somebody else has written. Nothing outside of those packages is imported to find out."""
    return [path for path in dict.fromkeys(design.dotted().values()) if not _is_known(path)]


def _is_known(path: str) -> bool:
    try:
        return is_of_packages(module_of(path)) and is_of_packages(class_at(path).__module__)
    except LookupError:
        return False


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def try_out(design: Design, resolution: int) -> None:
    """Try each class by dotted path on maps like those that it will get: of every number of channels that the network
    has there, and as large as the stage's for square images of `resolution` pixels.

    Raises:
        DesignError: if one does not map (N, C, H, W) to the same, in memory and on the meta device, where networks are
            counted.
    """
    maps = _maps(design, resolution)
    layers = {f"layers.{layer.name}": layer for layer in design.layers}
    with torch.random.fork_rng(devices=()):
        for field, path in design.dotted().items():
            place, arguments = (layers[field].at, layers[field].arguments) if field in layers else (field, ())
            for channels, size in sorted(maps[place]):
                args = () if field == "activation" else (channels,)
                _try(field, path, args, arguments, (2, channels, size, size))


def _maps(design: Design, resolution: int) -> dict[str, set[tuple[int, int]]]:
    """{place, or field: (channels, side) of each map there}."""
    maps = {name: set() for name in ("spatial", "hidden", "output", "norm", "activation")}
    maps["norm"].add((design.width, max(1, resolution // 4)))  # the stem's
    for block in design.blocks():
        size = max(1, resolution // 2 ** (block.stage + 2))
        normed = (block.spatial, block.c_out, *((block.c_hidden,) if design.norms == "all" else ()))
        maps["spatial"].add((block.spatial, size))
        maps["hidden"].add((block.c_hidden, size))
        maps["output"].add((block.c_out, size))
        maps["norm"] |= {(channels, size) for channels in normed}
        maps["activation"] |= {(channels, size) for channels in (block.spatial, block.c_hidden, block.c_out)}
    if design.downsampling == "separate":
        maps["norm"].add((block.c_out, 1))  # the head's
    return maps


@cache
def _try(
    field: str, path: str, args: tuple[int, ...], arguments: tuple[tuple[str, Any], ...], shape: tuple[int, ...]
) -> None:
    for device in ("cpu", "meta"):
        where = "" if device == "cpu" else " on the meta device, where networks are counted,"
        with torch.device(device):
            layer, x = make(field, path, *args, **keywords(arguments)), torch.randn(shape)
            try:
                y = layer(x)
            except Exception as error:  # whatever somebody's code may raise
                raise DesignError(f"{field}: {path}:{where} {shape} raises {_in_words(error)}") from error
        if not isinstance(y, Tensor):
            raise DesignError(f"{field}: {path}:{where} {shape} becomes a {type(y).__name__}, not a tensor")
        if y.shape != shape or y.dtype != x.dtype:
            raise DesignError(
                f"{field}: {path}:{where} {shape} of {x.dtype} becomes {tuple(y.shape)} of {y.dtype}; a layer must "
                "keep both"
            )


def _in_words(error: BaseException) -> str:
    """Its name and the first line of its message."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
