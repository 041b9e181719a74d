"""Every combination of switches is a network that trains, and every network is made as the readings say.

The readings are those of the facts behind this project: how the paper's Section 2 is understood where it is silent.
"""

import random
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import timm
import torch
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

import roadmap
from roadmap import Design, DesignError
from roadmap.block import Block
from roadmap.designs import ACTIVATIONS
from roadmap.layers import DepthwiseConv, LayerNorm2d, LayerScale, PointwiseLinear

torch.set_num_threads(1)

SWITCHES = {
    "stem": ("resnet", "patchify"),
    "stem_stride": (4, 2),
    "groups": (1, 2, "depthwise"),
    "bottleneck": ("classic", "inverted"),
    "spatial_conv": ("middle", "first"),
    "kernel_size": (3, 5, 7, 9, 11),
    "activation": ("relu", "gelu"),
    "activation_placement": ("all", "one"),
    "norm": ("batch", "layer"),
    "norm_placement": ("all", "one"),
    "downsampling": ("block", "separate"),
}
VALUES = {  # that leave the other layers as they are
    "layer_scale": (0.0, 1e-6),
    "drop_path": (0.0, 0.1),
    "init": ("kaiming", "truncated_normal"),
    "head_scale": (1.0, 0.001),
}
SMALL = Design(width=8, depths=(1, 2, 1, 1))
CLASSES = 10

RUNGS = {rung.name: rung.design for rung in roadmap.ladder("resnet50")}


def sketch(module: nn.Module) -> str:
    """The layers in order, a word each: "7x7/2+b" is a conv with stride 2 and a bias, "d" before it means depthwise."""
    return " ".join(word for layer in module.modules() if (word := _word(layer)))


def _word(layer: nn.Module) -> str:
    if isinstance(layer, nn.Conv2d):
        depthwise = "d" if layer.groups == layer.in_channels > 1 else ""
        stride = f"/{layer.stride[0]}" if layer.stride[0] > 1 else ""
        return f"{depthwise}{layer.kernel_size[0]}x{layer.kernel_size[0]}{stride}{_bias(layer)}"
    if isinstance(layer, PointwiseLinear):
        return f"1x1{_bias(layer)}"
    if isinstance(layer, nn.Linear):
        return f"linear{_bias(layer)}"
    names = {nn.BatchNorm2d: "BN", nn.BatchNorm1d: "BN1d", LayerNorm2d: "LN", nn.LayerNorm: "LN1d"}
    names |= {nn.ReLU: "ReLU", nn.GELU: "GELU", nn.MaxPool2d: "max", nn.AdaptiveAvgPool2d: "mean"}
    return names.get(type(layer), "")


def _bias(layer: nn.Conv2d | nn.Linear) -> str:
    return "+b" if layer.bias is not None else ""


def build_on_meta(design: Design) -> roadmap.Network:
    with torch.device("meta"):
        return roadmap.build(design, CLASSES)


def first_blocks(network: nn.Module) -> list[Block]:
    """Of stage 1, and of stage 2."""
    return [network.stages[stage].blocks[0] for stage in (0, 1)]


# ---------------------------------------------------------------- every combination


@pytest.mark.parametrize("stem", SWITCHES["stem"])
@pytest.mark.parametrize("groups", SWITCHES["groups"])
def test_every_combination_builds(stem: str, groups: int | str) -> None:
    """All that differ in their layers, from images to logits with the smallest kernel, and built with the largest."""
    images = torch.randn(2, 3, 32, 32)
    base = replace(SMALL, depths=(1, 1, 1, 1), stem=stem, groups=groups, init="truncated_normal")
    others = {
        name: values
        for name, values in SWITCHES.items()
        if name not in ("stem", "stem_stride", "groups", "kernel_size")
    }
    smallest, *_, largest = SWITCHES["kernel_size"]
    for values in product(*others.values()):
        design = replace(base, kernel_size=smallest, **dict(zip(others, values, strict=True)))
        with torch.no_grad():
            assert roadmap.build(design, CLASSES)(images).isfinite().all(), design
        build_on_meta(replace(design, kernel_size=largest))


def some_designs(count: int) -> Iterator[Design]:
    rng = random.Random(0)
    for _ in range(count):
        yield replace(SMALL, **{name: rng.choice(values) for name, values in (SWITCHES | VALUES).items()})


@pytest.mark.parametrize("part", range(2))
def test_combinations_train_every_parameter(part: int) -> None:
    """A parameter without a gradient is one that the network does not use."""
    for design in list(some_designs(120))[part::2]:
        torch.manual_seed(0)
        network = roadmap.build(design, CLASSES)
        network(torch.randn(4, 3, 32, 32)).logsumexp(1).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, f"{name} is not used by {design}"
            assert parameter.grad.isfinite().all(), f"{name} has an infinite gradient in {design}"


def test_no_classes_is_an_error() -> None:
    with pytest.raises(ValueError, match="num_classes must be at least 1, not 0"):
        roadmap.build(SMALL, 0)


# ---------------------------------------------------------------- readings 1 to 5: on the road

# rung: stem; first block of stage 2: branch; its shortcut; after the addition. Each line changes what its step changes.
ROAD = {
    "resnet": ("7x7/2 BN ReLU max", "1x1 BN ReLU 3x3/2 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "modern_recipe": ("7x7/2 BN ReLU max", "1x1 BN ReLU 3x3/2 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "patchify_stem": ("4x4/4 BN ReLU", "1x1 BN ReLU 3x3/2 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "depthwise_conv": ("4x4/4 BN ReLU", "1x1 BN ReLU d3x3/2 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "invert_dimensions": ("4x4/4 BN ReLU", "1x1 BN ReLU d3x3/2 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "move_up_depthwise": ("4x4/4 BN ReLU", "d3x3/2 BN ReLU 1x1 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "kernel_7": ("4x4/4 BN ReLU", "d7x7/2 BN ReLU 1x1 BN ReLU 1x1 BN", "1x1/2 BN", "ReLU"),
    "gelu": ("4x4/4 BN GELU", "d7x7/2 BN GELU 1x1 BN GELU 1x1 BN", "1x1/2 BN", "GELU"),
    "fewer_activations": ("4x4/4 BN GELU", "d7x7/2 BN 1x1 BN GELU 1x1 BN", "1x1/2 BN", ""),
    "fewer_norms": ("4x4/4 BN GELU", "d7x7/2 BN 1x1+b GELU 1x1+b", "1x1/2 BN", ""),
    "layer_norm": ("4x4/4+b LN GELU", "d7x7/2+b LN 1x1+b GELU 1x1+b", "1x1/2+b LN", ""),
    "separate_downsampling": ("4x4/4+b LN", "d7x7+b LN 1x1+b GELU 1x1+b", "", ""),
}


@pytest.mark.parametrize("rung", ROAD)
def test_rung_has_these_layers(rung: str) -> None:
    network = build_on_meta(RUNGS[rung])
    block = first_blocks(network)[1]
    parts = network.stem, block.branch, block.shortcut, block.activation
    assert tuple(map(sketch, parts)) == ROAD[rung]


@pytest.mark.parametrize("rung", ROAD)
def test_stem_for_small_images_differs_in_its_conv_alone(rung: str) -> None:
    network = build_on_meta(replace(RUNGS[rung], stem_stride=2))
    published, *rest = ROAD[rung]
    assert sketch(network.stem) == published.replace("7x7/2", "3x3").replace("4x4/4", "2x2/2")
    assert sketch(first_blocks(network)[1].branch) == rest[0]
    assert [side.shape[-1] for side in network.features(torch.empty(1, 3, 32, 32, device="meta"))] == [16, 8, 4, 2]


def test_only_separate_downsampling_puts_layers_between_stages_and_after_the_pool() -> None:
    last = build_on_meta(RUNGS["separate_downsampling"])
    assert [sketch(stage.downsample) for stage in last.stages[1:]] == ["LN 2x2/2+b"] * 3
    assert not hasattr(last.stages[0], "downsample")
    assert sketch(last.head) == "mean LN1d linear+b"
    before = build_on_meta(RUNGS["layer_norm"])
    assert not any(hasattr(stage, "downsample") for stage in before.stages)
    assert sketch(before.head) == "mean linear+b"


@pytest.mark.parametrize(
    ("rung", "projects"), [("resnet", True), ("increase_width", True), ("invert_dimensions", False)]
)
def test_stage_1_projects_only_when_it_widens(rung: str, projects: bool) -> None:
    shortcut = first_blocks(build_on_meta(RUNGS[rung]))[0].shortcut
    assert sketch(shortcut) == ("1x1 BN" if projects else "")


def test_layer_scale_comes_with_the_modern_recipe() -> None:
    def scales(rung: str) -> list[LayerScale]:
        return [module for module in roadmap.build(RUNGS[rung], CLASSES).modules() if isinstance(module, LayerScale)]

    assert not scales("resnet")
    assert len(scales("modern_recipe")) == 3 + 4 + 6 + 3
    assert all(scale.gamma.eq(1e-6).all() for scale in scales("modern_recipe"))


def test_branch_is_scaled_then_added_then_activated() -> None:
    """Reading 4's order, at a rung that has both a layer scale and an activation after the addition."""
    network = roadmap.build(replace(SMALL, layer_scale=1e-6), CLASSES).eval()
    block = first_blocks(network)[1]
    nn.init.uniform_(block.layer_scale.gamma, 1, 2)
    x = torch.randn(2, 32, 8, 8)
    expected = (block.shortcut(x) + block.layer_scale.gamma.view(1, -1, 1, 1) * block.branch(x)).relu()
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("depths", [(3, 4, 6, 3), (3, 3, 27, 3)])
def test_drop_path_is_linear_over_depth(depths: tuple[int, ...]) -> None:
    network = build_on_meta(Design(depths=depths, width=8, drop_path=0.5))
    blocks = [block for stage in network.stages for block in stage.blocks]
    rates = [getattr(block.drop_path, "p", 0.0) for block in blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.5, sum(depths)).tolist(), abs=1e-7)


# ---------------------------------------------------------------- readings 7 to 11: off the road


@pytest.mark.parametrize(
    ("switches", "branch"),
    [
        # 7: the only norm directly after the spatial conv, the only activation directly before the last 1x1
        ({"norm_placement": "one"}, "1x1+b ReLU 3x3/2 BN ReLU 1x1+b"),
        ({"activation_placement": "one"}, "1x1 BN 3x3/2 BN ReLU 1x1 BN"),
        ({"norm_placement": "one", "activation_placement": "one"}, "1x1+b 3x3/2 BN ReLU 1x1+b"),
        ({"norm_placement": "one", "norm": "layer"}, "1x1+b ReLU 3x3/2+b LN ReLU 1x1+b"),
        (
            {"norm_placement": "one", "activation_placement": "one", "spatial_conv": "first"},
            "3x3/2 BN 1x1+b ReLU 1x1+b",
        ),
        # 8: the spatial conv first in a classic bottleneck, dense when not grouped
        ({"spatial_conv": "first"}, "3x3/2 BN ReLU 1x1 BN ReLU 1x1 BN"),
    ],
)
def test_block_off_the_road_has_these_layers(switches: dict[str, str], branch: str) -> None:
    assert sketch(first_blocks(build_on_meta(replace(SMALL, **switches)))[1].branch) == branch


def channels(module: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_channels, layer.out_channels) for layer in module.modules() if isinstance(layer, nn.Conv2d)]


@pytest.mark.parametrize(
    ("switches", "expected"),
    [  # of stage 2's first block, at w = 8: c_in 4 * 8 or 8, c = 16
        ({}, [(32, 16), (16, 16), (16, 64)]),
        ({"spatial_conv": "first"}, [(32, 32), (32, 16), (16, 64)]),  # 8
        ({"bottleneck": "inverted"}, [(8, 64), (64, 64), (64, 16)]),
        ({"bottleneck": "inverted", "spatial_conv": "first"}, [(8, 8), (8, 64), (64, 16)]),
    ],
)
def test_channels_of_a_block(switches: dict[str, str], expected: list[tuple[int, int]]) -> None:
    assert channels(first_blocks(build_on_meta(replace(SMALL, **switches)))[1].branch) == expected


def test_separate_downsampling_of_classic_bottlenecks() -> None:
    """Reading 9: 4 * c_(i-1) to 4 * c_i, and stage 1 keeps its projection."""
    network = build_on_meta(replace(SMALL, downsampling="separate"))
    assert [channels(stage.downsample) for stage in network.stages[1:]] == [[(32, 64)], [(64, 128)], [(128, 256)]]
    assert [sketch(block.shortcut) for block in first_blocks(network)] == ["1x1 BN", ""]
    assert channels(first_blocks(network)[0].shortcut) == [(8, 32)]


def test_separate_downsampling_of_a_batch_norm_network_with_the_resnet_stem() -> None:
    """Readings 10 and 11."""
    network = build_on_meta(replace(SMALL, downsampling="separate"))
    assert sketch(network.stem) == "7x7/2 BN max"
    assert sketch(network.stages[1].downsample) == "BN 2x2/2+b"
    assert sketch(network.head) == "mean BN1d linear+b"


def test_grouped_conv_has_its_groups() -> None:
    """ResNeXt: 32 groups, say."""
    block = first_blocks(build_on_meta(Design(groups=32)))[1]
    assert block.branch.spatial.groups == 32


# ---------------------------------------------------------------- layers, activations and norms by dotted path


class Gate(nn.Module):
    """Somebody's layer, with values that it is made with, and an output that it keeps."""

    def __init__(self, channels: int, start: float = 0.5, label: str = "") -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, groups=channels)
        nn.init.constant_(self.conv.weight, start)
        self.channels, self.label = channels, label

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).sigmoid()


class Wave(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sin()


HERE = f"{__name__}."
GATES = {at: {"at": at, "_target_": f"{HERE}Gate", "label": at} for at in ("spatial", "hidden", "output")}
GRN = {"at": "hidden", "_target_": "timm.layers.grn.GlobalResponseNorm", "channels_last": False}


@pytest.mark.parametrize(
    ("switches", "branch"),
    [
        ({}, "1x1 BN ReLU 3x3/2 BN spatial ReLU hidden 1x1 BN output"),
        ({"activation_placement": "one"}, "1x1 BN 3x3/2 BN spatial ReLU hidden 1x1 BN output"),
        ({"spatial_conv": "first"}, "3x3/2 BN spatial ReLU 1x1 BN ReLU hidden 1x1 BN output"),
        (
            {"spatial_conv": "first", "norm_placement": "one", "activation_placement": "one"},
            "3x3/2 BN spatial 1x1+b ReLU hidden 1x1+b output",
        ),
    ],
)
def test_layers_stand_at_their_places(switches: dict[str, str], branch: str) -> None:
    block = first_blocks(build_on_meta(replace(SMALL, layers=GATES, **switches)))[1]
    words = [layer.label if isinstance(layer, Gate) else sketch(layer) for layer in block.branch]
    assert " ".join(words) == branch


@pytest.mark.parametrize("switches", [{}, {"bottleneck": "inverted", "spatial_conv": "first"}])
def test_layers_get_the_channels_of_their_places(switches: dict[str, str]) -> None:
    design = replace(SMALL, layers=GATES, **switches)
    *_, last = design.blocks()
    branch = build_on_meta(design).stages[-1].blocks[-1].branch
    channels = [branch.get_submodule(f"{at}_layer").channels for at in GATES]
    assert channels == [last.spatial, last.c_hidden, last.c_out]


def test_names_of_layers_are_not_in_the_weights() -> None:
    one, other = (build_on_meta(replace(SMALL, layers={name: GRN})).state_dict() for name in ("grn", "response"))
    assert one.keys() == other.keys()
    assert "stages.0.blocks.0.branch.hidden_layer.weight" in one


@pytest.mark.parametrize("init", VALUES["init"])
def test_what_is_not_ours_keeps_the_values_that_it_is_made_with(init: str) -> None:
    base = replace(SMALL, init=init, downsampling="separate")
    network = roadmap.build(replace(base, layers=GATES, norm=f"{HERE}Gate"), CLASSES)
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    assert len(gates) == 5 * 3 + 5 * 3 + 1 + 1 + 3 + 1  # layers, norms in branches, of a shortcut, stem, between, head
    assert all(gate.conv.weight.eq(0.5).all() for gate in gates)
    assert not network.stages[0].blocks[0].branch.spatial.weight.eq(0.5).any()


def test_what_a_layer_keeps_is_not_overwritten() -> None:
    """ReLU works in place only on what our own layers give."""
    network = roadmap.build(replace(SMALL, layers=GATES), CLASSES)
    network(torch.randn(4, 3, 32, 32)).sum().backward()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_of_torch_by_its_name(name: str) -> None:
    block = first_blocks(build_on_meta(replace(SMALL, activation=name)))[0]
    assert type(block.activation) is type(block.branch.spatial_act) is getattr(nn, ACTIVATIONS[name])


def test_activation_by_dotted_path() -> None:
    block = first_blocks(roadmap.build(replace(SMALL, activation=f"{HERE}Wave"), CLASSES))[1]
    x = torch.randn(2, 32, 8, 8)
    assert torch.equal(block(x), (block.shortcut(x) + block.branch(x)).sin())


@pytest.mark.parametrize("downsampling", SWITCHES["downsampling"])
def test_norm_by_dotted_path_is_our_norm_where_it_is_the_same(downsampling: str) -> None:
    """In stem, blocks, shortcuts, between stages and in the head; the convs before it have their biases."""
    ours = roadmap.build(replace(SMALL, norm="layer", downsampling=downsampling), CLASSES).double()
    theirs = roadmap.build(replace(ours.design, norm="timm.layers.LayerNorm2d"), CLASSES).double()
    assert sum(isinstance(one, timm.layers.LayerNorm2d) for one in theirs.modules()) == sum(
        isinstance(one, nn.LayerNorm) for one in ours.modules()
    )
    for parameter in ours.parameters():
        nn.init.normal_(parameter, std=0.3)
    roadmap.load_weights(theirs, ours.state_dict())
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(theirs(images), ours(images))


WRONG_PATHS = {  # what a path names, and the message about it
    f"{HERE}Gte": f"{__name__} has no 'Gte'; did you mean 'Gate'?",
    f"{HERE}sketch": "sketch is not a subclass of nn.Module",
    f"{HERE}Design": "Design is not a subclass of nn.Module",
    "nowhere.at.All": "importing nowhere.at raises ModuleNotFoundError: No module named 'nowhere'",
    "timm.layers.helpers.os.system": "'timm.layers.helpers' is not a package",
    f"{HERE}Wave": f"layers.mine: {HERE}Wave(8) raises TypeError: ",
}


@pytest.mark.parametrize(("path", "message"), WRONG_PATHS.items())
def test_wrong_path_is_named_with_its_field(path: str, message: str) -> None:
    with pytest.raises(DesignError) as error:
        roadmap.build(replace(SMALL, layers={"mine": {"at": "hidden", "_target_": path}}), CLASSES)
    assert str(error.value).startswith(f"layers.mine: {path}")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("path", "is_foreign"),
    [
        ("timm.layers.grn.GlobalResponseNorm", False),
        ("timm.layers.RmsNorm2d", False),
        ("torch.nn.SiLU", False),
        ("torch.nn.modules.activation.SiLU", False),
        ("roadmap.layers.LayerNorm2d", False),
        ("timm.layers.helpers.os.system", True),
        ("timm.layers.create_act.create_act_layer", True),
        ("timm.layers.nowhere.Layer", True),
        ("torch.nn_of_somebody.Layer", True),
        ("torch.hub.load", True),
        ("roadmapper.Layer", True),
        (f"{HERE}Gate", True),
    ],
)
def test_only_layers_of_known_packages_are_not_foreign(path: str, is_foreign: bool) -> None:
    for field in ({"norm": path}, {"activation": path}, {"layers": {"mine": {"at": "output", "_target_": path}}}):
        assert roadmap.foreign(Design(**field)) == [path] * is_foreign


def test_class_that_a_known_package_has_of_others_is_foreign(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm.layers, "Gate", Gate, raising=False)
    assert roadmap.foreign(Design(norm="timm.layers.Gate")) == ["timm.layers.Gate"]


def test_foreign_path_is_not_imported_to_be_found_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "malicious.py").write_text("from torch.nn import Identity as Norm")
    monkeypatch.syspath_prepend(tmp_path)
    assert roadmap.foreign(Design(norm="malicious.Norm")) == ["malicious.Norm"]
    assert "malicious" not in sys.modules


# ---------------------------------------------------------------- initial weights


def weighted(network: nn.Module) -> Iterator[nn.Conv2d | nn.Linear]:
    return (module for module in network.modules() if isinstance(module, (nn.Conv2d, nn.Linear)))


def test_truncated_normal_init() -> None:
    """A.1: std 0.02 for every conv and linear, biases 0; norms start as the identity."""
    network = roadmap.build(replace(RUNGS["separate_downsampling"], depths=(1, 1, 1, 1)))
    for module in weighted(network):
        assert module.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert module.bias.eq(0).all()
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


def test_kaiming_init() -> None:
    """torchvision's ResNet: variance 2 / fan_out for convs; the classifier as torch makes it."""
    network = roadmap.build(RUNGS["resnet"])
    for module in weighted(network.stages):
        fan_out = module.out_channels * module.kernel_size[0] ** 2
        assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)
    bound = 2048**-0.5
    assert 0.99 * bound < network.head.linear.weight.abs().max() <= bound


def test_head_scale_scales_the_classifier_alone() -> None:
    def weights(scale: float) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return roadmap.build(replace(SMALL, head_scale=scale), CLASSES).state_dict()

    whole, scaled = weights(1.0), weights(0.001)
    for name in whole:
        factor = 0.001 if name.startswith("head.linear") else 1
        torch.testing.assert_close(scaled[name], whole[name] * factor)


# ---------------------------------------------------------------- stochastic depth and memory layout


def test_drop_path_is_timms() -> None:
    """The authors' code has timm's."""
    block = roadmap.build(replace(SMALL, drop_path=0.3), CLASSES).stages[3].blocks[0]
    x = torch.randn(64, 3, 2, 2)
    outputs = []
    for drop_path in (block.drop_path, timm.layers.DropPath(0.3)):
        torch.manual_seed(1)
        outputs.append(drop_path(x))
    assert torch.equal(*outputs)


@pytest.mark.parametrize("rung", ["resnet", "separate_downsampling"])
def test_maps_stay_in_channels_last_memory(rung: str) -> None:
    """Whatever memory the images come in: else every LayerNorm would copy its map."""
    network = roadmap.build(replace(RUNGS[rung], width=8, depths=(1, 1, 1, 1)), CLASSES)
    maps = network.stages(network.stem(torch.randn(2, 3, 64, 64)))
    assert maps.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [1, 2, 4, 9])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel_size", SWITCHES["kernel_size"])
def test_depthwise_conv_is_torchs(kernel_size: int, stride: int, side: int) -> None:
    """Its output and gradients, however it computes them, on oblong maps and with a kernel larger than the map too."""
    for bias in (True, False):
        ours, theirs = (
            conv(6, 6, kernel_size, stride, padding=kernel_size // 2, groups=6, bias=bias, dtype=torch.float64)
            for conv in (DepthwiseConv, nn.Conv2d)
        )
        ours.load_state_dict(theirs.state_dict())
        x = torch.randn(3, 6, side, side + 1, dtype=torch.float64, requires_grad=True)
        results = []
        for conv in (ours, theirs):
            out = conv(x)
            results.append([out, *torch.autograd.grad(out.sin().sum(), [x, *conv.parameters()])])
        torch.testing.assert_close(*results)


# ---------------------------------------------------------------- seams: maps for detection, traces for export


NETWORKS = RUNGS | {"convnextv2_tiny": roadmap.design("convnextv2_tiny")}


@pytest.mark.parametrize("rung", NETWORKS)
def test_maps_of_the_four_stages_are_what_torchvision_extracts(rung: str) -> None:
    """Which traces the network without looking at what it is given."""
    design = replace(NETWORKS[rung], width=8, depths=(1, 2, 1, 1))
    network = roadmap.build(design, CLASSES).eval()
    images = torch.randn(2, 3, 64, 96)
    maps = network.features(images)
    nodes = {f"stages.{stage}.blocks.{depth - 1}": str(stage) for stage, depth in enumerate(design.depths)}
    with warnings.catch_warnings(action="ignore"):  # torchvision's, of fx
        extracted = create_feature_extractor(network, nodes)(images)
    assert [tuple(one.shape) for one in maps] == [
        (2, network.channels[stage], 64 >> stage + 2, 96 >> stage + 2) for stage in range(4)
    ]
    torch.testing.assert_close(maps, [extracted[str(stage)] for stage in range(4)])


@pytest.mark.parametrize("rung", ["kernel_7", "separate_downsampling", "convnextv2_tiny"])
def test_exported_network_takes_any_batch_and_size(rung: str) -> None:
    network = roadmap.build(replace(NETWORKS[rung], width=8, depths=(1, 1, 1, 1)), CLASSES).eval()
    auto = torch.export.Dim.DYNAMIC
    exported = torch.export.export(network, (torch.randn(2, 3, 64, 64),), dynamic_shapes=({0: auto, 2: auto, 3: auto},))
    images = torch.randn(3, 3, 160, 128)
    torch.testing.assert_close(exported.module()(images), network(images))
