"""Classes that a design names by dotted path: imported, constructed, and tried before a network is built with them.

Everything that can be wrong with one is a DesignError in one line, which begins with the field that names it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from itertools import chain
from threading import Timer
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from roadmap.common.bounds import did_you_mean
from roadmap.common.files import printable
from roadmap.designs import Design, DesignError, Layer
from roadmap.dotted import is_of_packages, module_of

RAISED = (Exception, SystemExit, GeneratorExit)
"""What user-defined code may raise; interrupts are left to the user."""
PATIENCE = 5.0
"""Seconds after which a line says which class is being tried."""
TRIALS = ((2, True), (1, False), (3, True), (3, False))
"""(batch size, whether training) of each call, in order: a network is evaluated in between while it trains."""


def make_layer(layer: Layer, channels: int) -> nn.Module:
    """A layer of `Design.layers` for maps with this number of channels."""
    return make(f"layers.{layer.name}", layer.target, channels, **layer.keywords)


def make(field: str, path: str, *args: object, **kwargs: object) -> nn.Module:
    """A module of the class that a field of the design names.

    Raises:
        DesignError: if there is no such class, if it does not accept the arguments, or if it is lazy.
    """
    try:
        module_class = class_at(path)
    except LookupError as error:
        raise DesignError(f"{field}: {path}: {error}") from error
    try:
        layer = module_class(*args, **kwargs)
        lazy = any(map(is_lazy, chain(layer.parameters(), layer.buffers())))
    except RAISED as error:
        arguments = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        raise DesignError(f"{field}: {path}({', '.join(arguments)}) raises {_in_words(error)}") from error
    if lazy:
        raise DesignError(f"{field}: {path}: its weights have no shape until it is called; use a class that has one")
    return layer


def class_at(path: str) -> type[nn.Module]:
    """The class that a dotted path names. Its module is imported.

    Raises:
        LookupError: if there is none, or it is not an nn.Module. The message is one line.
    """
    name, module_name = path.rpartition(".")[2], module_of(path)
    try:
        module = import_module(module_name)
        value: Any = getattr(module, name, None)  # may run code of the module
    except RAISED as error:
        raise LookupError(f"importing {module_name} raises {_in_words(error)}") from error
    if _is_module_class(value):
        return value
    if value is not None:
        raise LookupError(f"{name} is not a subclass of nn.Module")
    known = [key for key, value in vars(module).items() if _is_module_class(value)]
    raise LookupError(f"{module_name} has no {name!r}{did_you_mean(name, known)}")


def foreign(design: Design) -> list[str]:
    """The dotted paths of a design that do not name a layer of torch.nn, timm.layers or roadmap, and so must not be
    built from somebody else's design. Nothing outside those packages is imported to find out."""
    return [path for path in dict.fromkeys(design.dotted().values()) if not _is_known(path)]


def _is_known(path: str) -> bool:
    try:
        return is_of_packages(module_of(path)) and is_of_packages(class_at(path).__module__)
    except LookupError:
        return False


def _is_module_class(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, nn.Module)


def try_out(design: Design, resolution: int) -> None:
    """Call each class given by a dotted path on maps of all the shapes that it will get in the network, for square
    images of `resolution` pixels. If that takes long, a line on stderr says which class it is.

    Raises:
        DesignError: if one does not map (N, C, H, W) to the same shape, in training and in evaluation, in memory and on
            the meta device, where networks are counted; or if it can't be constructed.
    """
    maps = _maps(design, resolution)
    layers = {f"layers.{layer.name}": layer for layer in design.layers}
    with torch.random.fork_rng(devices=()):
        for field, path in design.dotted().items():
            layer = layers.get(field)
            with _message_if_slow(f"still trying {field}: {path}"):
                for channels, size in sorted(maps[layer.at if layer else field]):
                    args = () if field == "activation" else (channels,)
                    _try(field, path, args, layer, (channels, size, size))


@contextmanager
def _message_if_slow(text: str) -> Iterator[None]:
    timer = Timer(PATIENCE, print, [text], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # no thread may be left if the process forks next


def _maps(design: Design, resolution: int) -> dict[str, set[tuple[int, int]]]:
    """{position of a layer, or field: (channels, side) of each map there}."""
    maps: dict[str, set[tuple[int, int]]] = {
        name: set() for name in ("spatial", "hidden", "output", "norm", "activation")
    }
    maps["norm"].add((design.width, max(1, resolution // design.stem_stride)))  # the stem's
    for block in design.blocks():
        size = max(1, resolution // (design.stem_stride * 2**block.stage))
        normed = (block.spatial, block.c_out, *((block.c_hidden,) if design.norm_placement == "all" else ()))
        maps["spatial"].add((block.spatial, size))
        maps["hidden"].add((block.c_hidden, size))
        maps["output"].add((block.c_out, size))
        maps["norm"] |= {(channels, size) for channels in normed}
        maps["activation"] |= {(channels, size) for channels in (block.spatial, block.c_hidden, block.c_out)}
    if design.downsampling == "separate":
        maps["norm"].add((block.c_out, 1))  # the head's
    return maps


@cache
def _try(field: str, path: str, args: tuple[int, ...], layer: Layer | None, shape: tuple[int, int, int]) -> None:
    for device in ("cpu", "meta"):
        with torch.device(device):
            module = make(field, path, *args, **(layer.keywords if layer else {}))
            for batch, training in TRIALS:
                where = "" if training else " in evaluation,"
                where += "" if device == "cpu" else " on the meta device, where networks are counted,"
                with torch.inference_mode(not training):
                    _call(f"{field}: {path}:{where}", module, torch.randn(batch, *shape), training)


def _call(what: str, layer: nn.Module, x: Tensor, training: bool) -> None:
    shape = tuple(x.shape)
    try:
        y = layer.train(training)(x)
    except RAISED as error:
        raise DesignError(f"{what} {shape} raises {_in_words(error)}") from error
    if not isinstance(y, Tensor):
        raise DesignError(f"{what} {shape} becomes a {type(y).__name__}, not a tensor")
    if y.shape != shape or y.dtype != x.dtype:
        raise DesignError(f"{what} {shape} of {x.dtype} becomes {tuple(y.shape)} of {y.dtype}; a layer must keep both")


def _in_words(error: BaseException) -> str:
    """The error's class and the first line of its message."""
    try:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    except RAISED:  # raised by its __str__
        text = ""
    return printable(f"{type(error).__name__}: {text}" if text else type(error).__name__)
