"""With the same weights our networks are torchvision's, timm's and the authors', and weights travel both ways."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import timm
import torch
import torchvision
from timm.models.convnext import ConvNeXt as TimmConvNeXt
from timm.models.convnext import checkpoint_filter_fn
from timm.models.resnet import Bottleneck as TimmBottleneck
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.models.resnet import Bottleneck, ResNet

import roadmap
from roadmap import Design, Network, WeightsError

torch.set_num_threads(1)  # beside another pytest worker, threads that wait for each other take minutes

FAMILY = {
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), "torchvision"),
    **dict.fromkeys(("convnext_tiny", "convnext_small", "convnext_base", "convnext_large"), "torchvision"),
    **dict.fromkeys(("resnet200", "convnext_xlarge"), "timm"),
    **{f"convnextv2_{size}": "timm" for size in ["atto", "femto", "pico", "nano", "tiny", "base", "large", "huge"]},
}


def reference(name: str, library: str) -> nn.Module:
    """A library's network as it initialises it, but for what would start near zero and hide mistakes."""
    torch.manual_seed(0)
    if library == "torchvision":
        network = getattr(torchvision.models, name)(**({} if "resnet" in name else {"stochastic_depth_prob": 0}))
    else:
        network = timm.create_model(name, **({"zero_init_last": False} if "resnet" in name else {}))
    for key, parameter in network.named_parameters():
        if key.endswith(("gamma", "layer_scale")):
            nn.init.uniform_(parameter, 0.5, 1)
        elif ".grn." in key:
            nn.init.normal_(parameter)
    return network


def twin(design: Design, state: dict[str, Tensor], layout: str, dtype: torch.dtype = torch.float64) -> Network:
    """Our network with these weights, read from the layout. Nothing is initialised: the weights are all there is."""
    with torch.device("meta"):
        network = roadmap.build(design).to(dtype)
    network = network.to_empty(device="cpu")
    assert roadmap.load_weights(network, state) == layout
    return network


def names(design: Design, layout: str) -> dict[str, str]:
    """{our key: their key}"""
    with torch.device("meta"):
        network = roadmap.build(design)
    return dict(zip(network.state_dict(), roadmap.export_weights(network, layout), strict=True))


def learn(network: nn.Module, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits and gradients; the network keeps no gradient."""
    logits = network(images)
    cross_entropy(logits, torch.arange(len(images))).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    network.zero_grad(set_to_none=True)
    return logits.detach(), gradients


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest, relative to the largest value."""
    theirs_largest = torch.linalg.vector_norm(theirs, torch.inf)
    return (torch.linalg.vector_norm(ours.reshape(theirs.shape) - theirs, torch.inf) / theirs_largest).item()


@pytest.mark.parametrize(("name", "library"), FAMILY.items())
def test_every_size_is_the_librarys(name: str, library: str) -> None:
    """Each of its weights fits one of ours, and none is left over. Without memory: the largest is 1.4 GB."""
    with torch.device("meta"):
        ours = roadmap.build(roadmap.design(name))
        theirs = timm.create_model(name) if library == "timm" else getattr(torchvision.models, name)()
    assert roadmap.load_weights(ours, theirs.state_dict()) == ("torchvision" if "resnet" in name else library)
    theirs.load_state_dict(roadmap.export_weights(ours, library), strict=True)


@pytest.mark.parametrize(
    ("name", "library"),
    [
        *product(("resnet50", "convnext_tiny"), ("torchvision", "timm")),
        ("convnextv2_tiny", "timm"),
        ("convnextv2_atto", "timm"),
    ],
)
def test_same_weights_same_network(name: str, library: str) -> None:
    """Logits and gradients, in training and in evaluation (without stochastic depth one and the same in a ConvNeXt)."""
    resnet, design = "resnet" in name, roadmap.design(name)
    theirs = reference(name, library)
    ours = twin(design, theirs.state_dict(), "torchvision" if resnet else library)
    theirs.double()
    for training in (True, False) if resnet else (True,):
        resolution = (
            64 if resnet and training else 32
        )  # BatchNorm in training needs more than a pixel in the last stage
        images = torch.randn(2, 3, resolution, resolution, dtype=torch.float64)
        our_logits, our_gradients = learn(ours.train(training), images)
        their_logits, their_gradients = learn(theirs.train(training), images)
        assert difference(our_logits, their_logits) < 1e-9
        for our_name, their_name in names(design, library).items():
            if our_name in our_gradients:
                off = difference(our_gradients.pop(our_name), their_gradients.pop(their_name))
                assert off < 1e-9, their_name
        assert not our_gradients
        assert not their_gradients
    with torch.no_grad():
        assert difference(ours.eval().float()(images.float()), theirs.eval().float()(images.float())) < 1e-5


RESNET = replace(roadmap.design("resnet50"), depths=(2, 1, 2, 1))
CONVNEXT = replace(roadmap.design("convnext_tiny"), depths=(2, 1, 2, 1), width=8)
CONVNEXT_V2 = replace(roadmap.design("convnextv2_atto"), depths=(2, 1, 2, 1), width=8)
DIMS = [8, 16, 32, 64]


def torchvision_convnext() -> nn.Module:
    sizes = zip(DIMS, [*DIMS[1:], None], CONVNEXT.depths, strict=True)
    return TorchvisionConvNeXt([CNBlockConfig(*size) for size in sizes])


def timm_convnext_v2(**options: bool) -> nn.Module:
    return TimmConvNeXt(depths=CONVNEXT_V2.depths, dims=DIMS, use_grn=True, ls_init_value=None, **options)


FOREIGN = {  # a network of each library, and the layout that its state dict is read as
    "torchvision_resnet": (RESNET, "torchvision", lambda: ResNet(Bottleneck, list(RESNET.depths))),
    "timm_resnet": (RESNET, "torchvision", lambda: TimmResNet(TimmBottleneck, RESNET.depths)),
    "torchvision_convnext": (CONVNEXT, "torchvision", torchvision_convnext),
    "timm_convnext": (CONVNEXT, "timm", lambda: TimmConvNeXt(depths=CONVNEXT.depths, dims=DIMS)),
    "timm_convnext_v2": (CONVNEXT_V2, "timm", lambda: timm_convnext_v2(conv_mlp=True)),
    "timm_convnext_conv_mlp": (
        CONVNEXT,
        "timm",
        lambda: TimmConvNeXt(depths=CONVNEXT.depths, dims=DIMS, conv_mlp=True),
    ),
}


@pytest.mark.parametrize(("design", "layout", "build"), FOREIGN.values(), ids=FOREIGN)
def test_layouts_are_told_apart(design: Design, layout: str, build: Callable[[], nn.Module]) -> None:
    theirs = build().eval()
    ours = roadmap.build(design).eval()
    assert roadmap.load_weights(ours, theirs.state_dict()) == layout
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert difference(ours(images), theirs(images)) < 1e-5


@pytest.mark.parametrize(("design", "layout", "build"), list(FOREIGN.values())[:-1], ids=list(FOREIGN)[:-1])
def test_libraries_take_what_is_exported(design: Design, layout: str, build: Callable[[], nn.Module]) -> None:
    """`load_state_dict` as it stands: every key, every shape."""
    ours, theirs = randomised(roadmap.build(design)).eval(), build().eval()
    theirs.load_state_dict(roadmap.export_weights(ours, layout), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert difference(ours(images), theirs(images)) < 1e-5


@pytest.mark.parametrize(
    ("design", "layout"),
    [
        (RESNET, "ours"),
        (RESNET, "torchvision"),
        (CONVNEXT, "ours"),
        (CONVNEXT, "torchvision"),
        (CONVNEXT, "timm"),
        (CONVNEXT, "authors"),
        (CONVNEXT_V2, "ours"),
        (CONVNEXT_V2, "timm"),
        (CONVNEXT_V2, "authors"),
    ],
)
def test_round_trip_is_the_identity(design: Design, layout: str) -> None:
    one, other = randomised(roadmap.build(design)), roadmap.build(design)
    assert roadmap.load_weights(other, roadmap.export_weights(one, layout)) == layout
    assert identical(one.state_dict(), other.state_dict())


def test_exported_weights_are_a_copy() -> None:
    network = roadmap.build(CONVNEXT)
    roadmap.export_weights(network, "timm")["head.fc.bias"].fill_(7)
    assert not network.head.linear.bias.eq(7).any()


@pytest.mark.parametrize(
    ("design", "build"),
    [
        (CONVNEXT, lambda: TimmConvNeXt(depths=CONVNEXT.depths, dims=DIMS)),
        (CONVNEXT_V2, timm_convnext_v2),
        (CONVNEXT_V2, lambda: timm_convnext_v2(conv_mlp=True)),
    ],
)
def test_authors_layout_is_what_timm_reads_as_theirs(design: Design, build: Callable[[], nn.Module]) -> None:
    """timm's own conversion of the released checkpoints, run on our export, must yield our network."""
    ours, theirs = randomised(roadmap.build(design)).eval(), build().eval()
    released = {"model": roadmap.export_weights(ours, "authors")}
    theirs.load_state_dict(checkpoint_filter_fn(released, theirs), strict=True)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert difference(ours(images), theirs(images)) < 1e-5


def test_authors_names_are_the_published_ones() -> None:
    modules = {"norm", "head"} | {f"downsample_layers.{i}.{j}" for i in range(4) for j in range(2)}
    for stage, depth in enumerate(CONVNEXT.depths):
        for block in range(depth):
            modules |= {f"stages.{stage}.{block}.{layer}" for layer in ("dwconv", "norm", "pwconv1", "pwconv2")}
    keys = {f"{module}.{leaf}" for module in modules for leaf in ("weight", "bias")}
    keys |= {f"stages.{stage}.{block}.gamma" for stage, depth in enumerate(CONVNEXT.depths) for block in range(depth)}
    assert roadmap.export_weights(roadmap.build(CONVNEXT), "authors").keys() == keys


def test_authors_response_norm_is_theirs_in_name_and_shape() -> None:
    released = roadmap.export_weights(roadmap.build(CONVNEXT_V2), "authors")
    assert {name: tuple(tensor.shape) for name, tensor in released.items() if name.startswith("stages.1.0.")} == {
        "stages.1.0.dwconv.weight": (16, 1, 7, 7),
        "stages.1.0.dwconv.bias": (16,),
        "stages.1.0.norm.weight": (16,),
        "stages.1.0.norm.bias": (16,),
        "stages.1.0.pwconv1.weight": (64, 16),
        "stages.1.0.pwconv1.bias": (64,),
        "stages.1.0.grn.gamma": (1, 1, 1, 64),
        "stages.1.0.grn.beta": (1, 1, 1, 64),
        "stages.1.0.pwconv2.weight": (16, 64),
        "stages.1.0.pwconv2.bias": (16,),
    }


def test_name_of_a_layer_decides_nothing() -> None:
    [layer] = CONVNEXT_V2.layers
    renamed = replace(CONVNEXT_V2, layers=(layer._replace(name="response"),))
    roadmap.load_weights(roadmap.build(renamed), roadmap.export_weights(roadmap.build(CONVNEXT_V2), "authors"))


@pytest.mark.parametrize("wrapper", ["model", "state_dict"])
def test_wrapped_checkpoint_is_unwrapped(wrapper: str) -> None:
    one, other = roadmap.build(CONVNEXT), roadmap.build(CONVNEXT)
    checkpoint = {wrapper: roadmap.export_weights(one, "authors"), "epoch": 299}
    assert roadmap.load_weights(other, checkpoint) == "authors"
    assert identical(one.state_dict(), other.state_dict())


def test_resnet_weights_from_before_batches_were_counted() -> None:
    """Checkpoints of torch < 0.4.1, still in circulation, lack `num_batches_tracked`; torch accepts them too."""
    one, other = roadmap.build(RESNET), roadmap.build(RESNET)
    old = {key: t for key, t in roadmap.export_weights(one, "torchvision").items() if "num_batches" not in key}
    assert roadmap.load_weights(other, old) == "torchvision"
    assert identical(one.state_dict(), other.state_dict())


MISFITS = {  # what is done to the authors' layout of a ConvNeXt, and what the error says
    "missing": (lambda state: state.pop("stages.0.1.gamma"), ["missing stages.0.1.gamma"]),
    "unexpected": (lambda state: state.update(extra=torch.zeros(1)), ["unexpected extra"]),
    "shape": (
        lambda state: state.update({"head.weight": torch.zeros(21841, 64), "head.bias": torch.zeros(21841)}),
        ["head.weight has shape 21841x64 for 1000x64", "head.bias has shape 21841 for 1000"],
    ),
    "transposed": (
        lambda state: state.update({"stages.0.0.pwconv1.weight": torch.zeros(8, 32)}),
        ["stages.0.0.pwconv1.weight has shape 8x32 for 32x8"],
    ),
}


@pytest.mark.parametrize(("spoil", "words"), MISFITS.values(), ids=MISFITS)
def test_misfit_is_named_and_changes_nothing(spoil: Callable[[dict], object], words: list[str]) -> None:
    network = roadmap.build(CONVNEXT)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    state = roadmap.export_weights(roadmap.build(CONVNEXT), "authors")
    spoil(state)
    with pytest.raises(WeightsError) as error:
        roadmap.load_weights(network, state)
    assert "authors" in str(error.value)
    assert all(word in str(error.value) for word in words)
    assert identical(before, network.state_dict())


def test_weights_of_another_depth_do_not_fit() -> None:
    deeper = roadmap.build(replace(CONVNEXT, depths=(2, 1, 3, 1)))
    with pytest.raises(WeightsError, match=r"unexpected stages\.2\.blocks\.2\."):
        roadmap.load_weights(roadmap.build(CONVNEXT), roadmap.export_weights(deeper, "timm"))


@pytest.mark.parametrize(
    "step", [{"norm": "batch"}, {"kernel_size": 5}, {"downsampling": "block"}, {"layers": CONVNEXT_V2.layers}]
)
def test_networks_on_the_road_have_no_foreign_layout(step: dict[str, object]) -> None:
    """A BatchNorm ConvNeXt is nobody's network: its weights must not pass as torchvision's."""
    with pytest.raises(WeightsError, match="no torchvision layout, only ours"):
        roadmap.export_weights(roadmap.build(replace(CONVNEXT, **step)), "torchvision")


def test_torchvision_has_no_convnext_v2() -> None:
    with pytest.raises(WeightsError, match="no torchvision layout, only ours, timm, authors"):
        roadmap.export_weights(roadmap.build(CONVNEXT_V2), "torchvision")


def test_unknown_layout_is_told_the_nearest() -> None:
    with pytest.raises(WeightsError, match=r"no torchvison layout, .*did you mean 'torchvision'\?"):
        roadmap.export_weights(roadmap.build(CONVNEXT), "torchvison")


def randomised(network: Network) -> Network:
    """With values everywhere that no identity has."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
