"""The network without its Python code: as torch.export traces it, and from that as ONNX. Both are run and compared with
the network before a file is written."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from roadmap.common.files import printable

TOLERANCE = 1e-5
"""The largest difference from the network's logits, relative to the largest of them."""
OPSET = 18
"""Of ONNX: the version for which torch's exporter is written."""
MOST = 8192
"""Pixels: the largest resolution of a run."""
AXES = ("batch", "channels", "height", "width")


class ExportError(Exception):
    """A network that can't be exported to a format. The message is one line: why."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


@dataclass(frozen=True)
class Traced:
    """A network as torch.export has it, for (N, 3, H, W) images of any N."""

    program: ExportedProgram
    resolution: int
    """Pixels for which the network was trained."""
    smallest: int | None
    """Pixels of the smallest height and width with which it is checked; it takes all that are larger. None: it takes
    `resolution` alone."""

    @property
    def shapes(self) -> list[tuple[int, int, int, int]]:
        """Of the images with which it is checked: batches of 1 and 3, smaller, at `resolution` and larger."""
        own = self.resolution
        shapes = [(1, 3, own, own), (3, 3, own, own)]
        if self.smallest is None:
            return shapes
        larger, largest = 32 * (own // 32 + 1), 32 * (own // 32 + 2)
        return [*shapes, (1, 3, self.smallest, self.smallest), (1, 3, larger, largest), (3, 3, largest, larger)]


def trace(network: nn.Module, resolution: int, reduction: int) -> Traced:
    """Trace a network in evaluation mode: for images of any size if its layers allow that, else of `resolution` pixels.

    Its last map has 1 / `reduction` of an image's pixels per side. torch.export takes it that no map of any size has a
    side of 1 pixel, so the smallest images have a last map of 2 x 2.

    Raises:
        ExportError: if it has operations that can't be traced.
    """
    smallest = None
    if resolution >= 2 * reduction:
        any_size = {0: Dim("batch"), 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        with suppress(Exception):  # of torch, or of a user-defined layer, which may be made for maps of one size
            program = _traced(network, torch.zeros(2, 3, resolution, resolution + reduction), any_size)
            smallest = 2 * reduction if _takes_from(program, 2 * reduction) else None
    if smallest is None:
        try:
            program = _traced(network, torch.zeros(2, 3, resolution, resolution), {0: Dim("batch")})
        except Exception as error:
            raise ExportError(f"torch.export can't trace it: {_first_line(error)}") from error
    return Traced(program, resolution, smallest)


def _traced(network: nn.Module, images: Tensor, dynamic: Mapping[int, Any]) -> ExportedProgram:
    with _quiet():
        program = torch.export.export(network, (images,), dynamic_shapes=(dynamic,), strict=False)
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it names the folders of whoever exports
    return program


def _takes_from(program: ExportedProgram, smallest: int) -> bool:
    """Whether a program takes images of any height and width from `smallest` pixels on."""
    [images] = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    ranges = [program.range_constraints[side.node.expr] for side in images.meta["val"].shape[2:]]
    return all(bounds.lower <= smallest and bounds.upper >= MOST for bounds in ranges)


def to_pt2(traced: Traced, network: nn.Module) -> tuple[bytes, float]:
    """The file that `torch.export.load` reads, and its largest relative difference from the network.

    Raises:
        ExportError: if that is larger than TOLERANCE.
    """
    file = io.BytesIO()
    with _quiet():
        torch.export.save(traced.program, file)
        file.seek(0)
        again = torch.export.load(file).module()
    return file.getvalue(), _checked(again, traced, network)


def to_onnx(traced: Traced, network: nn.Module, metadata: Mapping[str, str]) -> tuple[bytes, float]:
    """An ONNX file with `metadata`, and the largest relative difference of onnxruntime from the network.

    Its input is `images` (batch, 3, height, width), its output `logits` (batch, classes).

    Raises:
        ExportError: if there is an operation that ONNX lacks, or the difference is larger than TOLERANCE.
    """
    import onnx
    import onnxruntime

    try:
        with _quiet():
            exported = torch.onnx.export(
                traced.program,
                dynamo=True,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                verbose=False,
            )
            assert exported is not None
            model = exported.model_proto
    except Exception as error:
        raise ExportError(f"torch.onnx can't convert it: {_first_line(error)}") from error
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, AXES, strict=False):
            if axis.dim_param:
                axis.dim_param = name
    del model.graph.value_info[:]  # shapes in between, in terms of other names
    for node in model.graph.node:
        del node.metadata_props[:]  # lines of Python, with the folders of whoever exports
    onnx.helper.set_model_props(model, dict(metadata))
    content = model.SerializeToString()

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])

    return content, _checked(run, traced, network)


def _checked(exported: Callable[[Tensor], Tensor], traced: Traced, network: nn.Module) -> float:
    """The largest difference of logits, relative to the largest logit, over random images of all `traced.shapes`.

    Raises:
        ExportError: if it is larger than TOLERANCE.
    """
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for shape in traced.shapes:
        images = torch.randn(shape, generator=generator)
        try:
            distance = difference(exported(images), network(images))
        except Exception as error:
            raise ExportError(f"it fails on images of shape {shape}: {_first_line(error)}") from error
        if not distance <= TOLERANCE:  # which NaN isn't, either
            raise ExportError(f"its logits differ from the network's by {distance:.1e} of the largest logit")
        largest = max(largest, distance)
    return largest


def difference(logits: Tensor, reference: Tensor) -> float:
    """The largest absolute difference, divided by the largest absolute value of the reference."""
    return ((logits - reference).abs().max() / reference.abs().max().clamp(min=1e-30)).item()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch's exporters print and warn of: it is for those who write them."""
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _first_line(error: BaseException) -> str:
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
