"""Training starts from the weights that it is told to start from, wherever they come from."""

import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import Tensor

import roadmap
from experiments.config.initial_weights import find_init
from experiments.config.run import Run
from experiments.errors import SettingsError
from experiments.training.models import make_network, start_from

torch.set_num_threads(1)

NETWORK = ("design=convnext", "design.depths=[1,1,1,1]", "design.width=8")


@pytest.fixture(scope="module")
def run(run_of: Callable) -> Run:
    return run_of(*NETWORK, "recipe=finetune")


@pytest.fixture(scope="module")
def donor(run: Run) -> roadmap.Network:
    """Our network of 10 classes, other weights."""
    torch.manual_seed(1)
    return roadmap.build(run.design, 10)


def started(run: Run, file: Path | str, classes: int = 10) -> tuple[dict[str, Tensor], dict[str, Tensor], str]:
    """The weights before and after, and what the log says."""
    torch.manual_seed(2)
    network, log = make_network(run, classes), []
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    start_from(find_init(str(file)), network, log.append)
    return before, network.state_dict(), *log


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "network"])
@pytest.mark.parametrize("layout", ["ours", "torchvision", "timm", "authors"])
def test_file_in_any_layout(layout: str, wrapper: str | None, run: Run, donor: roadmap.Network, tmp_path: Path) -> None:
    state = roadmap.export_weights(donor, layout)
    torch.save({wrapper: state} if wrapper else state, tmp_path / "file.pth")
    _, after, line = started(run, tmp_path / "file.pth")
    assert all(torch.equal(after[name], tensor) for name, tensor in donor.state_dict().items())
    assert line == f"starting from {tmp_path / 'file.pth'} ({layout} layout)"


def test_head_of_other_classes_is_replaced_and_said(run: Run, donor: roadmap.Network, tmp_path: Path) -> None:
    """And the new head is small, as Table 6 has it."""
    torch.save(roadmap.export_weights(donor, "authors"), tmp_path / "file.pth")
    before, after, line = started(run, tmp_path / "file.pth", classes=7)
    for name, tensor in after.items():
        assert torch.equal(tensor, before[name] if name.startswith("head.linear") else donor.state_dict()[name]), name
    assert after["head.linear.weight"].std() < 0.001 * 0.03
    assert line.endswith("(authors layout); its head of 10 classes is replaced by a new one of 7")


def test_run_starts_from_a_run(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    """From its directory, through the command line; an identity of its own, named in the record."""
    assert command(*tiny, "rung=gelu", "runs=first").code == 0
    [first] = here.glob("first/*")
    code, out, _ = command(*tiny, "rung=gelu", "runs=second", f"init={first}", "recipe.lr=0", "recipe.min_lr=0")
    assert code == 0
    [second] = here.glob("second/*")
    first_weights, second_weights = (torch.load(path / "weights.pt", weights_only=True) for path in (first, second))
    learned = [name for name in first_weights if "running" not in name and "tracked" not in name]
    assert all(torch.equal(first_weights[name], second_weights[name]) for name in learned)
    assert f"starting from {first}" in " ".join(out.split())
    config = json.loads((second / "config.json").read_text())
    assert config["init"]["source"] == config["differs"]["init"] == str(first)


def test_identity_follows_the_weights_not_their_place(run_of: Callable, donor: roadmap.Network, tmp_path: Path) -> None:
    for name in ("one", "same", "other"):
        state = {**donor.state_dict()}
        if name == "other":
            state["head.linear.bias"] = state["head.linear.bias"] + 1
        (tmp_path / name).mkdir()
        torch.save(state, tmp_path / name / "file.pth")
    one, same, other = (run_of(*NETWORK, f"init={tmp_path / name / 'file.pth'}") for name in ("one", "same", "other"))
    assert one.identity == same.identity != other.identity
    assert run_of(*NETWORK).identity != one.identity


@pytest.mark.parametrize("source", ["torchvision:resnet50.IMAGENET1K_V1", "timm:resnet50.a1_in1k"])
def test_published_weights(source: str, run_of: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the library's own cache of downloads, where a file of our making lies."""
    torch.manual_seed(0)
    published = torchvision.models.resnet50()  # timm calls everything the same
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    if source.startswith("torchvision"):
        url = torchvision.models.ResNet50_Weights.IMAGENET1K_V1.url
        (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
        torch.save(published.state_dict(), tmp_path / "hub" / "checkpoints" / url.rpartition("/")[2])
    else:
        create = timm.create_model
        torch.save(published.state_dict(), tmp_path / "file.pth")
        overlay = {"file": str(tmp_path / "file.pth")}
        monkeypatch.setattr(timm, "create_model", lambda name, **kw: create(name, pretrained_cfg_overlay=overlay, **kw))
    run = run_of("design=resnet50", f"init={source}")
    _, after, line = started(run, source)
    assert torch.equal(after["stem.conv.weight"], published.conv1.weight)
    assert torch.equal(after["stages.3.blocks.2.branch.pointwise2.weight"], published.layer4[2].conv3.weight)
    assert (
        line == f"starting from {source} (torchvision layout); its head of 1000 classes is replaced by a new one of 10"
    )


def test_model_of_timm_starts_from_a_file(run_of: Callable, tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("test_convnext", num_classes=7).state_dict()
    torch.save(state, tmp_path / "file.pth")
    before, after, line = started(run_of("model=timm:test_convnext"), tmp_path / "file.pth")
    assert all(torch.equal(after[n], before[n] if n.startswith("head.fc") else state[n]) for n in after)
    assert line.endswith("its head of 7 classes is replaced by a new one of 10")


class Code:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("it ran"),)


def pickled(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


WHOLE = pickled({"stem.conv.weight": torch.zeros(1000)})
HEAD = "head.linear.weight"
NO_WEIGHTS = {
    "empty": (b"", "is damaged, or was not written by torch.save"),
    "text": (b"no file of torch's", "is damaged, or was not written by torch.save"),
    "half": (WHOLE[:2000], "is damaged, or was not written by torch.save"),
    "flipped": (WHOLE[:60] + b"\xff" * 20 + WHOLE[80:], "is damaged, or was not written by torch.save"),
    "code": (pickled({"model": Code()}), "only tensors are read from files"),
    "list": (pickled([1, 2]), "contains no state dict"),
    "nested": (pickled({"model": {"model": {"state_dict": [7]}}}), "contains no state dict: model is not a tensor"),
    "numbers": (pickled({HEAD: 3.0}), "contains no state dict: head.linear.weight is not a tensor"),
    "no names": (pickled({7: torch.zeros(1)}), "contains no state dict: 7 is not a tensor"),
    "escapes": (pickled({"\x1b[2J": "a"}), r"contains no state dict: \x1b[2J is not a tensor"),
    "sparse": (pickled({HEAD: torch.zeros(10, 64).to_sparse()}), "not a dense tensor of real numbers"),
    "complex": (pickled({HEAD: torch.zeros(10, 64, dtype=torch.complex64)}), "not a dense tensor of real numbers"),
    "expanded": (pickled({HEAD: torch.zeros(1, 64).expand(10**12, 64)}), "not a dense tensor of real numbers"),
    "scalar head": (
        pickled({HEAD: torch.tensor(1.0)}),
        "head.linear.weight has shape scalar, not one row per class",
    ),
    "other": (pickled({"stem.conv.weight": torch.zeros(1)}), "these weights do not fit as the ours layout: missing "),
    "lying.safetensors": ((10**15).to_bytes(8, "little") + b"{}", "header too large"),
}


@pytest.mark.parametrize("name", NO_WEIGHTS)
def test_file_that_is_no_such_weights(name: str, run: Run, here: Path) -> None:
    content, expected = NO_WEIGHTS[name]
    (here / name).write_bytes(content)
    with pytest.raises(SettingsError) as error:
        started(run, here / name)
    assert expected in str(error.value)
    assert "weights_only" not in str(error.value)
    assert str(error.value).isprintable()
    assert not (here / "it ran").exists()


def test_scalar_as_the_head_of_a_model_of_timm(run_of: Callable, tmp_path: Path) -> None:
    state = timm.create_model("test_convnext", num_classes=7).state_dict() | {"head.fc.weight": torch.tensor(1.0)}
    torch.save(state, tmp_path / "file.pth")
    with pytest.raises(SettingsError, match=r"head\.fc\.weight should have one row per class"):
        started(run_of("model=timm:test_convnext"), tmp_path / "file.pth")


def test_run_says_in_one_line_that_its_weights_cannot_be_read(command: Callable, tiny: tuple, here: Path) -> None:
    (here / "file.pth").write_bytes(b"no file of torch's")
    code, out, err = command(*tiny, *NETWORK, "init=file.pth")
    assert code == 2
    assert "failed: file.pth contains no weights: it is damaged" in " ".join(out.split())
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere.pt", "there are no weights at nowhere.pt; name a run's directory, a file, torchvision:"),
        (
            "torchvision:resnet50",
            "torchvision:resnet50 does not name its weights; for example torchvision:resnet50.IMAGENET",
        ),
        ("timm:resnet5", "timm has no model 'resnet5'; did you mean"),
        (".", "has no weights.pt: is it a run's directory, and is the run done?"),
        ("pipe", "there are no weights at pipe"),
        ("x" * 300, "init must be a path"),
    ],
)
def test_weights_that_are_not_there_are_reported_in_one_line(
    source: str, expected: str, command: Callable, here: Path
) -> None:
    os.mkfifo(here / "pipe")
    code, _, err = command(f"init={source}")
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err
