"""`Design`: one value that specifies a network, except for its number of classes.

Every field is a switch of Section 2 of *A ConvNet for the 2020s* (arXiv 2201.03545), or a quantity that a step changes;
`layers` adds layers that the paper does not have. This module imports no torch: designs are compared, hashed and
validated before anything expensive starts.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args, get_type_hints

from roadmap.common.bounds import Each, Number, bounds_of, did_you_mean, problems, setting
from roadmap.dotted import is_dotted


class DesignError(ValueError):
    """A value that no network can have. The message is one sentence with the field, the value and a valid one."""


ACTIVATIONS = {
    name.lower(): name
    for name in (
        "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "LeakyReLU", "LogSigmoid", "Mish",
        "PReLU", "ReLU", "ReLU6", "RReLU", "SELU", "Sigmoid", "SiLU", "Softplus", "Softshrink", "Softsign", "Tanh",
        "Tanhshrink",
    )
}  # fmt: skip
"""{name: class of torch.nn}: the elementwise activations that can be made without arguments."""
TORCH_MODULES = ("torch.nn", "torch.nn.modules", "torch.nn.modules.activation")
"""The modules in which a dotted path can find them."""


@dataclass(frozen=True)
class ClassName:
    """The bounds of a class name: one of the known names, or a dotted path."""

    known: Collection[str]
    kinds: str

    def problem(self, value: Any) -> str | None:
        if isinstance(value, str) and (value in self.known or is_dotted(value)):
            return None
        return (
            f"must be {self.kinds} or the dotted path of a class, like package.module.Class, "
            f"not {value!r}{did_you_mean(value, self.known)}"
        )


class Layer(NamedTuple):
    """A layer in every block's residual branch: `target(channels, **arguments)`, which maps (N, C, H, W) to the same
    shape."""

    name: str
    """Any identifier. Modules are named by their position, so that weights don't depend on it."""
    at: Literal["spatial", "hidden", "output"]
    """"spatial": after the spatial conv's norm, before its activation. "hidden": directly before the last 1x1 conv,
    after any activation. "output": at the branch's end, before layer scale."""
    target: str
    """Dotted path of the class."""
    arguments: str = "{}"
    """Keyword arguments (numbers, text, true, false, null, and lists of them), as JSON: 1, 1.0 and true are equal in
    Python but make three different layers."""

    @property
    def keywords(self) -> dict[str, Any]:
        return json.loads(self.arguments)

    def to_json(self) -> dict[str, Any]:
        return {"at": self.at, "_target_": self.target} | self.keywords


RENAMED = {"norms": "norm_placement", "activations": "activation_placement"}
"""Switches of earlier versions, and what they are called now."""


@dataclass(frozen=True, kw_only=True)
class Design:
    """A point of the design space between ResNet and ConvNeXt. The defaults are ResNet-50.

    Raises:
        DesignError: if a field's value is impossible, or an integer number of groups does not divide the channels.
    """

    depths: tuple[int, int, int, int] = setting((3, 4, 6, 3), Each(Number("[1, 1000]")))
    """Numbers of residual blocks in the four stages (2.2, stage ratio)."""
    width: int = setting(64, Number("[1, 65536]"))
    """Base width w: stage i of 4 has c = w * 2**(i-1) channels, 4c in a classic bottleneck's residual path (2.3)."""
    stem: Literal["resnet", "patchify"] = "resnet"
    """"resnet": 7x7 stride-2 conv and 3x3 stride-2 max pool. "patchify": 4x4 stride-4 conv (2.2)."""
    stem_stride: Literal[4, 2] = 4
    """By how much the stem reduces the resolution: 4 in the paper. 2 is for small images: a 3x3 conv of stride 1 and
    the max pool, or a 2x2 stride-2 conv (docs/readings.md)."""
    groups: int | Literal["depthwise"] = 1
    """Groups of the spatial conv: 1 is dense, an integer as in ResNeXt, "depthwise" one group per channel (2.3)."""
    bottleneck: Literal["classic", "inverted"] = "classic"
    """"classic": 4c -> c -> 4c. "inverted": c -> 4c -> c (2.4)."""
    spatial_conv: Literal["middle", "first"] = "middle"
    """Position of the spatial conv: between the two 1x1 convs, or before them (2.5, moving up depthwise conv)."""
    kernel_size: int = setting(3, Number("[1, 255]"))
    """Of the spatial conv, odd (2.5)."""
    activation: str = setting("relu", ClassName(ACTIVATIONS, "an activation of torch.nn in lower case, like 'silu',"))
    """An elementwise activation of torch.nn by its class's name in lower case ("relu", "gelu", "silu", "leakyrelu"), or
    a class by dotted path, constructed without arguments (2.6). torch.nn.SiLU becomes "silu"."""
    activation_placement: Literal["all", "one"] = "all"
    """"all": after every conv but the branch's last, and after the addition. "one": only before the last 1x1 (2.6)."""
    norm: str = setting("batch", ClassName(("batch", "layer"), "'batch', 'layer'"))
    """"batch": BatchNorm. "layer": LayerNorm over channels. Or a class by dotted path, constructed with the
    number of channels, that maps (N, C, H, W) to the same shape; in the head (N, C, 1, 1) (2.6)."""
    norm_placement: Literal["all", "one"] = "all"
    """"all": after every conv. "one": only after the spatial conv (2.6)."""
    downsampling: Literal["block", "separate"] = "block"
    """"block": stride in a stage's first block, projected shortcut. "separate": norm and 2x2 stride-2 conv between
    stages, a norm after the stem and one after the global average pool (2.6)."""
    layer_scale: float = setting(0.0, Number("[0, 1000]"))
    """Initial value of the residual branches' learned scale, one parameter per channel; 0 for none (Table 5)."""
    drop_path: float = setting(0.0, Number("[0, 1)"))
    """Stochastic depth: the last block's probability of being dropped, from 0 at the first, linearly (Table 5)."""
    init: Literal["kaiming", "truncated_normal"] = "kaiming"
    """"kaiming": torchvision's ResNet. "truncated_normal": std 0.02, biases 0 (A.1)."""
    head_scale: float = setting(1.0, Number("[0, 1000]"))
    """Factor on the classifier's initial weights (Table 6)."""
    layers: tuple[Layer, ...] = ()
    """Layers that the paper's blocks lack, at most one per position, sorted by name. Also accepted as in YAML:
    {grn: {at: hidden, _target_: timm.layers.grn.GlobalResponseNorm, channels_last: false}}; {grn: null} is none."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "depths":
                object.__setattr__(self, "depths", _depths(value))
            elif field.name == "groups":
                _check_groups(value)
            elif field.name == "activation":
                _check_text(field, value)
                object.__setattr__(self, "activation", _short(value))
            elif field.name == "layers":
                object.__setattr__(self, "layers", _layers(value))
            elif hints[field.name] is str:
                _check_text(field, value)
            elif hints[field.name] is int:
                _check_count(field.name, value)
            elif hints[field.name] is float:
                _check_number(field.name, value)
                object.__setattr__(self, field.name, float(value))
            elif value not in (choices := get_args(hints[field.name])):
                raise DesignError(
                    f"{field.name} must be {' or '.join(map(repr, choices))}, "
                    f"not {value!r}{did_you_mean(value, choices)}"
                )
        if self.kernel_size % 2 == 0:
            raise DesignError(
                f"kernel_size must be odd to keep the map's size, not {self.kernel_size}; "
                f"try {self.kernel_size - 1} or {self.kernel_size + 1}"
            )
        for name, problem in problems(self):
            raise DesignError(f"{name} {problem}")
        if isinstance(self.groups, int):
            for shape in self.blocks():
                if shape.spatial % self.groups:
                    raise DesignError(
                        f"groups={self.groups} do not divide the {shape.spatial} channels of the spatial conv "
                        f"in stage {shape.stage + 1} (width={self.width}); take a divisor or groups=depthwise"
                    )

    def blocks(self) -> Iterator[BlockShape]:
        """The residual blocks in order, with their channels and strides."""
        c_in, total = self.width, sum(self.depths)
        for stage, depth in enumerate(self.depths):
            c = self.width * 2**stage
            c_hidden, c_out = (c, 4 * c) if self.bottleneck == "classic" else (4 * c, c)
            for index in range(depth):
                starts_stage = stage > 0 and index == 0
                if starts_stage and self.downsampling == "separate":
                    c_in = c_out
                yield BlockShape(
                    stage=stage,
                    c_in=c_in,
                    c_hidden=c_hidden,
                    c_out=c_out,
                    spatial=c_hidden if self.spatial_conv == "middle" else c_in,
                    stride=2 if starts_stage and self.downsampling == "block" else 1,
                    drop_path=self.drop_path * (sum(self.depths[:stage]) + index) / max(total - 1, 1),
                )
                c_in = c_out

    def dotted(self) -> dict[str, str]:
        """{field: dotted path} of every class that is given by one; a layer's field is "layers.NAME"."""
        layers = {f"layers.{layer.name}": layer.target for layer in self.layers}
        return layers | {name: path for name in ("activation", "norm") if is_dotted(path := getattr(self, name))}

    def to_json(self) -> dict[str, Any]:
        """For JSON and YAML, where `layers` is a mapping. `roadmap.conf.to_design` reads it back."""
        values = dataclasses.asdict(self) | {"layers": {layer.name: layer.to_json() for layer in self.layers}}
        return values | {"depths": list(self.depths)}


class BlockShape(NamedTuple):
    """The properties in which the blocks of a network differ."""

    stage: int
    c_in: int
    c_hidden: int
    c_out: int
    spatial: int
    """Channels of the spatial conv."""
    stride: int
    drop_path: float


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_count(name: str, value: object) -> None:
    if not _is_count(value):
        raise DesignError(f"{name} must be a positive integer, not {value!r}")


def _check_number(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value or abs(value) == float("inf"):
        raise DesignError(f"{name} must be a finite number, not {value!r}")


def _check_groups(value: object) -> None:
    if not _is_count(value) and value != "depthwise":
        raise DesignError(
            f"groups must be a positive integer or 'depthwise', not {value!r}{did_you_mean(value, ['depthwise'])}"
        )


def _depths(value: object) -> tuple[int, ...]:
    depths = tuple(value) if isinstance(value, (list, tuple)) else ()
    if len(depths) != 4 or not all(map(_is_count, depths)):
        raise DesignError(f"depths must be four positive integers, one per stage, not {value!r}")
    return depths


def _check_text(field: dataclasses.Field, value: object) -> None:
    if problem := bounds_of(field).problem(value):
        raise DesignError(f"{field.name} {problem}")


def _short(activation: str) -> str:
    """The short name of an activation of torch.nn, so that the same network is the same design."""
    module, _, name = activation.rpartition(".")
    known = ACTIVATIONS.get(name.lower()) == name and module in TORCH_MODULES
    return name.lower() if known else activation


def _layers(value: Any) -> tuple[Layer, ...]:
    """The layers of a mapping as in YAML, or of a sequence of layers, in canonical form."""
    if isinstance(value, Mapping):
        layers = [_layer_of(name, mapping) for name, mapping in value.items() if mapping is not None]
    else:
        try:
            parsed = [(name, at, target, dict(json.loads(arguments))) for name, at, target, arguments in value]
        except (TypeError, ValueError, RecursionError) as error:
            raise DesignError(f"layers must be a mapping of names to layers, not {value!r}") from error
        layers = [_layer(*fields) for fields in parsed]
    layers.sort(key=lambda layer: layer.name)
    at: dict[str, str] = {}
    for layer in layers:
        if layer.name in at.values():
            raise DesignError(f"layers.{layer.name} is given twice")
        if layer.at in at:
            raise DesignError(f"layers {at[layer.at]} and {layer.name} are both at {layer.at!r}, which takes only one")
        at[layer.at] = layer.name
    return tuple(layers)


def _layer_of(name: object, mapping: object) -> Layer:
    if not isinstance(mapping, Mapping):
        raise DesignError(f"layers.{name} must be a mapping with 'at', '_target_' and arguments, not {mapping!r}")
    arguments = dict(mapping)
    return _layer(name, arguments.pop("at", None), arguments.pop("_target_", None), arguments)


def _layer(name: object, at: Any, target: Any, arguments: dict[Any, Any]) -> Layer:
    if not isinstance(name, str) or not name.isidentifier():
        raise DesignError(f"layers must have names of letters, digits and _, not {name!r}")
    if at not in (positions := get_args(get_type_hints(Layer)["at"])):
        raise DesignError(
            f"layers.{name}.at must be {' or '.join(map(repr, positions))}, not {at!r}{did_you_mean(at, positions)}"
        )
    if not is_dotted(target):
        raise DesignError(
            f"layers.{name}._target_ must be the dotted path of a class, like package.module.Class, not {target!r}"
        )
    for key, value in arguments.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise DesignError(f"layers.{name} must have arguments with names, not {key!r}")
        if not _is_argument(value):
            raise DesignError(
                f"layers.{name}.{key} must be a finite number, text, true, false, null or a list of them, not {value!r}"
            )
    return Layer(name, at, target, json.dumps(arguments, sort_keys=True))


def _is_argument(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_argument, value))
    return value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
