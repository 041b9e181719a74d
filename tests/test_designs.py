"""A design is a value, and an impossible one says in a sentence what would be possible."""

import json
import re
from dataclasses import FrozenInstanceError, asdict, replace

import pytest
import torch
from omegaconf import OmegaConf

from roadmap import Design, DesignError
from roadmap.conf import to_design
from roadmap.designs import ACTIVATIONS

WRONG = [  # field, value, what the message must say beside the two
    ("stem", "patchfy", "did you mean 'patchify'?"),
    ("stem", None, "'resnet' or 'patchify'"),
    ("groups", "depthwis", "did you mean 'depthwise'?"),
    ("groups", 0, "positive integer or 'depthwise'"),
    ("groups", True, "positive integer or 'depthwise'"),
    ("groups", 2.0, "positive integer or 'depthwise'"),
    ("bottleneck", "invert", "did you mean 'inverted'?"),
    ("spatial_conv", "frist", "did you mean 'first'?"),
    ("kernel_size", 4, "try 3 or 5"),
    ("kernel_size", 0, "positive integer"),
    ("kernel_size", "7", "positive integer"),
    ("activation", "gleu", "did you mean 'gelu'?"),
    ("activation", "leaky_relu", "did you mean 'leakyrelu'?"),
    ("activation", "softmax", "an activation of torch.nn in lower case"),
    ("activation", "my.1st", "dotted path of a class, like package.module.Class"),
    ("activation_placement", "on", "did you mean 'one'?"),
    ("norm", "layernorm", "did you mean 'layer'?"),
    ("norm", "my.", "dotted path of a class, like package.module.Class"),
    ("norm_placement", 1, "'all' or 'one'"),
    ("downsampling", "seperate", "did you mean 'separate'?"),
    ("init", "kaimin", "did you mean 'kaiming'?"),
    ("width", 0, "positive integer"),
    ("width", 64.0, "positive integer"),
    ("width", 10**9, "[1, 65536]"),
    ("depths", (3, 3, 9), "four positive integers"),
    ("depths", (3, 3, 0, 3), "four positive integers"),
    ("depths", "3393", "four positive integers"),
    ("layer_scale", -1e-6, "[0, 1000]"),
    ("layer_scale", float("nan"), "finite number"),
    ("drop_path", 1.0, "[0, 1)"),
    ("drop_path", -0.1, "[0, 1)"),
    ("drop_path", "0.1", "finite number"),
    ("head_scale", float("inf"), "finite number"),
    ("head_scale", True, "finite number"),
    ("head_scale", -1.0, "[0, 1000]"),
]


@pytest.mark.parametrize(("field", "value", "help"), WRONG)
def test_error_names_the_field_the_value_and_what_is_right(field: str, value: object, help: str) -> None:
    with pytest.raises(DesignError) as error:
        Design(**{field: value})
    message = str(error.value)
    assert field in message
    assert str(value) in message
    assert help in message
    assert "\n" not in message


def test_groups_that_do_not_divide_say_which_channels() -> None:
    with pytest.raises(DesignError, match=r"groups=32 do not divide the 84 channels .* stage 1 \(width=84\)"):
        Design(groups=32, width=84)


def test_spatial_channels_decide_whether_groups_divide() -> None:
    """8 divides an inverted bottleneck's 4 * 12 hidden channels, not the 12 that the other blocks convolve."""

    def builds(bottleneck: str, spatial_conv: str) -> bool:
        try:
            Design(groups=8, width=12, bottleneck=bottleneck, spatial_conv=spatial_conv)
        except DesignError:
            return False
        return True

    assert builds("inverted", "middle")
    assert not builds("inverted", "first")
    assert not builds("classic", "middle")
    assert not builds("classic", "first")


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Design().width = 96


def test_equal_designs_are_one_key() -> None:
    one = Design(depths=[3, 4, 6, 3], drop_path=0, layer_scale=0)
    assert one == Design()
    assert {one: "counted"}[Design()] == "counted"
    assert Design(**asdict(one)) == one
    assert replace(one, width=96) != one


def test_values_are_normalised() -> None:
    """A run's identity is written from these: [3, 3, 9, 3] and 0 must read as (3, 3, 9, 3) and 0.0."""
    design = Design(depths=[3, 3, 9, 3], drop_path=0, head_scale=1)
    assert design.depths == (3, 3, 9, 3)
    assert isinstance(design.depths, tuple)
    assert all(isinstance(value, float) for value in (design.drop_path, design.layer_scale, design.head_scale))


# ---------------------------------------------------------------- layers of the user's own

GRN = {"at": "hidden", "_target_": "timm.layers.grn.GlobalResponseNorm", "channels_last": False}
GATE = {"at": "output", "_target_": "mine.Gate", "ratio": 0.25, "sizes": [1, [2, 3]], "bias": None}

WRONG_LAYERS = [  # what is written, what the message must say
    (3, "layers must be a mapping of names to layers, not 3"),
    ([["grn", "hidden"]], "layers must be a mapping of names to layers"),
    ([["grn", "hiden", "my.Layer", "{}"]], "layers.grn.at must be 'spatial' or 'hidden' or 'output', not 'hiden'"),
    ([["grn", "hidden", "my.Layer", "{}"], ["grn", "output", "my.Layer", "{}"]], "layers.grn is given twice"),
    ({"grn": 3}, "layers.grn must be a mapping with 'at', '_target_' and arguments, not 3"),
    ({3: GRN}, "layers must have names of letters, digits and _, not 3"),
    (
        {"grn": GRN | {"at": "hiden"}},
        "layers.grn.at must be 'spatial' or 'hidden' or 'output', not 'hiden'; did you mean",
    ),
    ({"grn": {"_target_": "my.Layer"}}, "layers.grn.at must be 'spatial' or 'hidden' or 'output', not None"),
    ({"grn": {"at": "hidden"}}, "layers.grn._target_ must be the dotted path of a class"),
    ({"grn": GRN | {"_target_": "GlobalResponseNorm"}}, "like package.module.Class, not 'GlobalResponseNorm'"),
    ({"grn": GRN | {"_target_": "import os; os.Path"}}, "must be the dotted path of a class"),
    (
        {"grn": GRN | {"eps": float("nan")}},
        "layers.grn.eps must be a finite number, text, true, false, null or a list",
    ),
    (
        {"grn": GRN | {"eps": {"value": 1}}},
        "layers.grn.eps must be a finite number, text, true, false, null or a list",
    ),
    ({"grn": GRN | {"no name": 1}}, "layers.grn must have arguments with names, not 'no name'"),
    ({"grn": GRN, "gate": GATE | {"at": "hidden"}}, "layers gate and grn are both at 'hidden', which takes only one"),
]


@pytest.mark.parametrize(("written", "said"), WRONG_LAYERS, ids=[said for _, said in WRONG_LAYERS])
def test_wrong_layer_is_told_in_one_sentence(written: object, said: str) -> None:
    with pytest.raises(DesignError) as error:
        Design(layers=written)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_equal_layers_are_one_key() -> None:
    """In whatever order, and whether they are written as YAML or as a design has them."""
    one = Design(layers={"grn": GRN, "gate": GATE})
    other = Design(layers={"gate": dict(reversed(GATE.items())), "none": None, "grn": GRN})
    assert {one: "counted"}[other] == "counted"
    assert [layer.name for layer in one.layers] == ["gate", "grn"]
    assert Design(**asdict(one)) == replace(one, width=64) == one
    assert one != Design(layers={"grn": GRN})


def test_layers_whose_arguments_are_equal_in_python_alone_differ() -> None:
    """1 == 1.0 == True, and their runs have three identities, so whatever is kept by design must keep three."""
    designs = {Design(layers={"gate": GATE | {"ratio": value, "sizes": [value]}}) for value in (1, 1.0, True)}
    assert len(designs) == 3
    assert {type(design.layers[0].keywords["ratio"]) for design in designs} == {int, float, bool}


@pytest.mark.parametrize(
    ("written", "activation"),
    [
        ("torch.nn.SiLU", "silu"),
        ("torch.nn.modules.SiLU", "silu"),
        ("torch.nn.modules.activation.SiLU", "silu"),
        ("torch.nn.silu", "torch.nn.silu"),  # there is none
        ("torch.nn.GLU", "torch.nn.GLU"),
        ("mine.SiLU", "mine.SiLU"),
    ],
)
def test_activation_of_torch_has_one_name(written: str, activation: str) -> None:
    assert Design(activation=written).activation == activation


@pytest.mark.parametrize("kind", ["a record", "asdict", "YAML"])
def test_layers_are_read_back(kind: str) -> None:
    design = Design(layers={"grn": GRN, "gate": GATE}, kernel_size=7)
    if kind == "a record":
        assert design.to_json()["layers"] == {"grn": GRN, "gate": GATE}
        assert to_design(json.loads(json.dumps(design.to_json()))) == design
    elif kind == "asdict":
        assert to_design(json.loads(json.dumps(asdict(design)))) == design
    else:
        assert to_design(OmegaConf.create(OmegaConf.to_yaml(design.to_json()))) == design


def test_record_without_layers_is_a_design_without_layers() -> None:
    """As those are that were written before there were any."""
    recorded = Design().to_json()
    del recorded["layers"]
    assert to_design(recorded) == Design()


def test_activations_are_torchs() -> None:
    """All of them but those that take arguments, or look at more than one element."""
    others = {"Threshold", "MultiheadAttention", "GLU", "Softmin", "Softmax", "Softmax2d", "LogSoftmax"}
    assert set(ACTIVATIONS.values()) == set(torch.nn.modules.activation.__all__) - others
    x = torch.tensor([-2.0, -0.2, 0.0, 0.3, 4.0])
    for name, activation in ACTIVATIONS.items():
        assert name == activation.lower()
        made = getattr(torch.nn, activation)().eval()
        assert torch.equal(made(x)[2:3], made(x[2:3])), f"{activation} is elementwise"


@pytest.mark.parametrize(
    ("name", "hint"),
    [("norms", "; it is called 'norm_placement' now"), ("activatoin", "; did you mean 'activation'?"), ("xyzzy", "")],
)
def test_a_configuration_sets_no_switch_that_is_not_there(name: str, hint: str) -> None:
    with pytest.raises(DesignError, match=re.escape(f"{name}: there is no such switch{hint}")):
        to_design({name: "one"})
