"""A design is a value, and an impossible one says in a sentence what would be possible."""

from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from roadmap import Design, DesignError

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
    ("activations", "on", "did you mean 'one'?"),
    ("norm", "layernorm", "did you mean 'layer'?"),
    ("norms", 1, "'all' or 'one'"),
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
