"""Training is what the paper's code did: against plain loops over timm's and torch's parts, written from the facts."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
from timm.loss import SoftTargetCrossEntropy
from timm.models.convnext import ConvNeXt
from torch import Tensor

import roadmap
from experiments.config.run import Run
from experiments.config.settings import Recipe
from experiments.data.loader import Loader
from experiments.data.transforms import Preprocess
from experiments.records.record import Record
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, derive, seed_all
from experiments.training.loop import train
from experiments.training.recipe import make_optimizer

torch.set_num_threads(1)

ALONE = Processes(torch.device("cpu"))
BASE, LOW, DECAY, LAYER_DECAY, EMA = 2e-3, 1e-6, 0.05, 0.8, 0.9
STEPS, WARMUP, PASSES = 20, 4, 2


class Losses:
    def __init__(self) -> None:
        self.seen: list[float] = []

    def say(self, line: str) -> None: ...

    def step(self, epoch: int, step: int, steps: int, loss: float) -> None:
        self.seen.append(loss)

    def epoch(self, row: dict[str, float]) -> None: ...


@pytest.fixture(scope="module")
def run(run_of: Callable, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """20 steps of two passes, with everything on that a recipe of the paper has."""
    network = (
        "rung=separate_downsampling",
        "design.depths=[1,1,4,1]",
        "design.width=8",
        "design.drop_path=0.5",
        "design.stem_stride=4",
    )
    recipe = (f"recipe.lr={BASE}", f"recipe.layer_decay={LAYER_DECAY}", f"recipe.ema_decay={EMA}", "recipe.epochs=2")
    batch = (
        "recipe.batch_size=20",
        "micro_batch_size=10",
        f"recipe.warmup={WARMUP}/{STEPS}",
        "recipe.random_erasing=0.25",
    )
    mixing = ("recipe.mixup_prob=1", "recipe.cutmix=1.0", "recipe.label_smoothing=0.1", "design.layer_scale=1e-6")
    data = ("data.subset=0.02", "data.holdout=0.02", *mixing)
    runs = f"runs={tmp_path_factory.mktemp('reference')}"
    return run_of("recipe=convnext", *network, *recipe, *batch, *data, "threads=1", "device=cpu", runs)


def layer_of(name: str, depth: int) -> int:
    """Layers of ConvNeXt by its parameters' names in timm, as the authors number them: facts/README.md. `depth` is
    that of stage 3."""
    last = 3 + -(-depth // 3)
    if name.startswith("stem"):
        return 0
    if name.startswith("head"):
        return last + 1
    _, stage, kind, *rest = name.split(".")
    if stage == "2":
        return 3 if kind == "downsample" else 3 + int(rest[0]) // 3
    return {"0": 1, "1": 2, "3": last}[stage]


def reference(run: Run) -> tuple[list[float], dict[str, Tensor], dict[str, Tensor]]:
    """Losses, weights and averaged weights of timm's ConvNeXt, trained step by step."""
    seed_all(derive(Purpose.WEIGHTS, run.seed))
    start = roadmap.build(run.design, 10)
    network = ConvNeXt(
        depths=(1, 1, 4, 1), dims=(8, 16, 32, 64), num_classes=10, drop_path_rate=0.5, ls_init_value=1e-6
    )
    network.load_state_dict(roadmap.export_weights(start, "timm"))
    groups = [
        {
            "params": [parameter],
            "weight_decay": 0.0 if parameter.ndim == 1 else DECAY,
            "scale": LAYER_DECAY ** (6 - layer_of(name, depth=4)),
        }
        for name, parameter in network.named_parameters()
    ]
    optimizer = torch.optim.AdamW(groups, BASE, betas=(0.9, 0.999), eps=1e-8, foreach=False)
    mixup = timm.data.Mixup(0.8, 1.0, prob=1.0, switch_prob=0.5, mode="batch", label_smoothing=0.1, num_classes=10)
    criterion = SoftTargetCrossEntropy()
    preprocess = Preprocess(torch.device("cpu"))
    data = Loader(run, ALONE)
    batches = (batch for epoch in range(2) for batch in data.epoch(epoch))
    average = {name: tensor.clone() for name, tensor in network.state_dict().items()}

    losses = []
    for t in range(STEPS):
        if t < WARMUP:
            lr = BASE * t / (WARMUP - 1)
        else:
            lr = LOW + (BASE - LOW) * (1 + math.cos(math.pi * (t - WARMUP) / (STEPS - WARMUP))) / 2
        for group in optimizer.param_groups:
            group["lr"] = lr * group["scale"]
        optimizer.zero_grad()
        total = 0.0
        for part in range(PASSES):
            batch = next(batches)
            images = preprocess(batch.images, batch.erased)
            seed_all(derive(Purpose.STEP, run.seed, t * PASSES + part))
            images, targets = mixup(images, batch.labels)
            loss = criterion(network(images), targets) / PASSES
            loss.backward()
            total += loss.item()
        optimizer.step()
        losses.append(total)
        for name, tensor in network.state_dict().items():
            average[name] = EMA * average[name] + (1 - EMA) * tensor
    return losses, network.state_dict(), average


@pytest.mark.usefixtures("every_step")
def test_twenty_steps_are_the_references(run: Run) -> None:
    """With mixup, cutmix, erasing, stochastic depth, accumulation, warm-up, layer-wise decay and a moving average."""
    progress = Losses()
    train(run, Record(run), progress, ALONE)
    losses, weights, average = reference(run)
    assert progress.seen == pytest.approx(losses, abs=1e-6)
    for file, expected in {"weights.pt": weights, "weights_ema.pt": average}.items():
        network = roadmap.build(run.design, 10)
        network.load_state_dict(torch.load(run.directory / file, weights_only=True))
        actual = roadmap.export_weights(network, "timm")
        for name, tensor in expected.items():
            torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert max((weights[name] - average[name]).abs().max() for name in weights) > 1e-4


@pytest.mark.parametrize(("name", "layers"), [("convnext_tiny", 6), ("convnext_base", 12)])
def test_layer_wise_decay_has_the_published_groups(name: str, layers: int, run_of: Callable) -> None:
    """12 layers for depths 3-3-27-3, and after them the head; every parameter with its factor and its decay."""
    recipe: Recipe = run_of("recipe=finetune", "regime=resnet50").recipe
    with torch.device("meta"):
        network = roadmap.build(roadmap.design(name))
    theirs = dict(zip(network.state_dict(), roadmap.export_weights(network, "timm"), strict=True))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = make_optimizer(recipe, network).param_groups
    settings = {names[id(p)]: (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(settings) == sum(len(group["params"]) for group in groups) == len(names)
    depth = roadmap.design(name).depths[2]
    for ours, parameter in network.named_parameters():
        layer = layer_of(theirs[ours], depth)
        assert 0 <= layer <= layers + 1
        scale, decay = settings[ours]
        assert scale == pytest.approx(0.8 ** (layers + 1 - layer), rel=1e-12)
        assert decay == (0.0 if parameter.ndim == 1 else 1e-8)
    assert len({scale for scale, _ in settings.values()}) == layers + 2


def test_layer_wise_decay_of_any_network_covers_every_parameter(run_of: Callable) -> None:
    recipe = run_of("recipe=finetune").recipe
    for rung in roadmap.ladder("nano"):
        network = roadmap.build(rung.design, 10)
        groups = make_optimizer(recipe, network).param_groups
        assert sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
        assert sorted({group["lr_scale"] for group in groups}) == pytest.approx([0.8**k for k in range(5, -1, -1)])
