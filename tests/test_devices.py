"""How a run runs: precision, recomputation, compilation, broken images, streams, signals. Each through the loop."""

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import roadmap
from experiments.config.run import Run
from experiments.data.loader import Loader
from experiments.errors import SettingsError
from experiments.launch.worker import StopFlag
from experiments.runtime.devices import peak_memory_mb, pick_device
from experiments.runtime.processes import Processes

torch.set_num_threads(1)

ALONE = Processes(torch.device("cpu"))


def summary_of(runs: Path) -> dict:
    [path] = runs.glob("*/summary.json")
    return json.loads(path.read_text())


def weights_of(runs: Path) -> dict[str, torch.Tensor]:
    [path] = runs.glob("*/weights.pt")
    return torch.load(path, weights_only=True)


# Precision, recomputation, compilation.


@pytest.mark.parametrize("precision", ["bf16", "fp16", "tf32"])
def test_mixed_precision_trains_nearly_the_same_in_another_series(
    precision: str, command: Callable, tiny: tuple[str, ...], here: Path
) -> None:
    for runs, override in (("plain", ()), ("mixed", (f"precision={precision}",))):
        gently = "recipe.lr=0.02"  # or rounding decides where twenty steps lead
        assert command(*tiny, gently, *override, f"runs={runs}").code == 0
    plain, mixed = summary_of(here / "plain"), summary_of(here / "mixed")
    assert plain["series"] != mixed["series"]
    assert mixed["val_loss"] == pytest.approx(plain["val_loss"], rel=0.1)
    assert (mixed["val_loss"] == plain["val_loss"]) == (precision == "tf32")  # which a CPU does not have
    assert all(tensor.dtype in (torch.float32, torch.int64) for tensor in weights_of(here / "mixed").values())


@pytest.mark.parametrize("rung", ["modern_recipe", "separate_downsampling"])
def test_recomputation_changes_no_bit(rung: str, command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    """Neither of BatchNorm's running statistics, which see a batch once, nor of stochastic depth; nor the identity."""
    for runs, override in (("plain", "false"), ("again", "true")):
        overrides = (*tiny, f"rung={rung}", "design.drop_path=0.5")
        assert command(*overrides, f"gradient_checkpointing={override}", f"runs={runs}").code == 0
    plain, again = weights_of(here / "plain"), weights_of(here / "again")
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert summary_of(here / "plain")["identity"] == summary_of(here / "again")["identity"]


def test_recomputation_keeps_the_inputs_of_blocks_alone() -> None:
    def kept(network: torch.nn.Module) -> int:
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
            network(torch.rand(2, 3, 64, 64)).sum()
        return sum(sizes)

    plain, again = (roadmap.build(roadmap.Design(depths=(2, 2, 2, 2), width=8), 10) for _ in range(2))
    again.set_grad_checkpointing()
    assert kept(again) < kept(plain) / 3


def test_recomputation_is_refused_where_it_would_change_the_result(command: Callable, tiny: tuple[str, ...]) -> None:
    """timm recomputes BatchNorms as if they saw another batch."""
    code, out, _ = command(*tiny, "model=timm:test_resnet", "gradient_checkpointing=true")
    assert code == 2
    assert "would update this model's BatchNorm statistics twice per batch" in " ".join(out.split())


def test_compiled_network_trains_the_same(
    command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Traced as torch.compile does, but run without the minute that its C++ compiler takes."""
    traced = []

    def compile(network: torch.nn.Module) -> Callable:
        traced.append(network)
        return torch_compile(network, backend="aot_eager")

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile)
    for runs, override in (("plain", "false"), ("compiled", "true")):
        assert command(*tiny, f"compile={override}", f"runs={runs}").code == 0
    assert len(traced) == 1
    plain, compiled = weights_of(here / "plain"), weights_of(here / "compiled")
    assert plain.keys() == compiled.keys()
    for name, tensor in plain.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-2, atol=1e-3)


def test_synchronised_batch_norm_is_a_series_of_its_own_where_it_matters(
    run_of: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BatchNorm and mixing see what a device takes at once; other networks and recipes do not care."""
    unmixed = ("recipe.mixup=0", "recipe.cutmix=0")
    alone = {rung: run_of(f"rung={rung}", *unmixed) for rung in ("resnet", "separate_downsampling")}
    run_of.cache_clear()
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rung, run in alone.items():
        plain, synchronised = (run_of(f"rung={rung}", *unmixed, f"sync_batch_norm={on}") for on in ("false", "true"))
        assert synchronised.identity == run.identity
        assert (plain.identity == run.identity) == (rung == "separate_downsampling")
        mixed = run_of(f"rung={rung}", "recipe.mixup=0.8", "sync_batch_norm=true")
        assert mixed.identity != run_of(f"rung={rung}", "recipe.mixup=0.8", "micro_batch_size=16").identity
    run_of.cache_clear()


# Images that can't be read.


@pytest.fixture
def photos(here: Path) -> Path:
    """40 training and 10 validation JPEGs in 2 classes; the fourth of each part is cut off."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("val", 10)):
        for index in range(count):
            path = here / "photos" / part / "ab"[index % 2] / f"{index:02}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
            if index == 3:
                path.write_bytes(path.read_bytes()[:-300])
    return here / "photos"


def of_photos(*overrides: str) -> tuple[str, ...]:
    network = ("design.width=8", "design.depths=[1,1,1,1]", "recipe.batch_size=10", "recipe.epochs=2", "resolution=40")
    return (*network, "data=folder", "data.path=photos", "threads=1", "device=cpu", *overrides)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image_stops_the_run_by_its_name(workers: int, command: Callable, photos: Path) -> None:
    code, out, _ = command(*of_photos(f"workers={workers}"))
    assert code == 2
    text = " ".join(out.split())
    assert f"cannot read the image {Path('photos') / 'train' / 'b' / '03.jpg'}: image file is truncated" in text
    assert "or skip such images with data.broken=skip" in text
    assert "Traceback" not in text


def test_path_that_looks_like_markup_is_printed_as_it_is(command: Callable, photos: Path, here: Path) -> None:
    photos.rename(here / "pho[t]os[")
    code, out, _ = command(*of_photos("data.path='pho[t]os['"))
    assert code == 2
    assert "cannot read the image pho[t]os[/train/b/03.jpg" in " ".join(out.split())


def test_broken_images_are_passed_over_and_counted(command: Callable, photos: Path, here: Path) -> None:
    """In training another image takes the place; in evaluation none does. Whatever the number of workers."""
    for runs, workers in (("one", 0), ("two", 2)):
        assert command(*of_photos("data.broken=skip", f"workers={workers}", f"runs={runs}")).code == 0
        summary = summary_of(here / runs)
        assert (summary["train_images"], summary["evaluation_images"], summary["broken_images"]) == (40, 9, 2)
    one, two = weights_of(here / "one"), weights_of(here / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)
    correct = json.loads(next(here.glob("one/*/correct.json")).read_text())
    assert (correct["count"], correct["unread"]) == (10, [6])  # after the five of class a and one of class b
    log = next(here.glob("one/*/log.txt")).read_text()
    assert log.count("03.jpg") == 2


# Streams.


@pytest.fixture
def shards(here: Path) -> Path:
    """40 training images in 3 shards of webdataset, 7 to evaluate on."""
    pytest.importorskip("webdataset")
    rng = np.random.default_rng(0)
    for part, counts in (("train", (16, 12, 12)), ("val", (7,))):
        for number, count in enumerate(counts):
            path = here / "shards" / f"{part}-{number}.tar"
            path.parent.mkdir(exist_ok=True)
            with tarfile.open(path, "w") as tar:
                for index in range(count):
                    file = io.BytesIO()
                    Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, "PNG")
                    for name, content in (("png", file.getvalue()), ("cls", str(index % 2).encode())):
                        entry = tarfile.TarInfo(f"{part}{number}{index:03}.{name}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))
    return here / "shards"


STREAM = ("data=wds", "data.path=shards", "data.num_classes=2", 'data.train="train-{0..2}.tar"', "data.val=val-0.tar")


@pytest.mark.parametrize("workers", [0, 2])
def test_stream_is_trained_on_in_full_batches(workers: int, run_of: Callable, shards: Path) -> None:
    run: Run = run_of(*STREAM, "recipe.batch_size=6", f"workers={workers}", "threads=1")
    loader = Loader(run, ALONE)
    assert (loader.num_classes, loader.steps_per_epoch, len(loader.evaluation)) == (2, 6, 7)
    first, again, later = ([*loader.epoch(epoch)] for epoch in (0, 0, 1))
    assert [len(batch.images) for batch in first] == [6] * 6
    samples = [sample for batch in first for sample in batch.samples]
    assert len(set(samples)) == 36
    assert all(torch.equal(one.images, two.images) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0].images, later[0].images)
    other = [*Loader(replace(run, seed=1), ALONE).epoch(0)]
    assert not torch.equal(first[0].images, other[0].images)
    assert sum(len(batch.images) for batch in loader.evaluation.batches()) == 7


@pytest.mark.usefixtures("every_step")
def test_stopped_stream_goes_on_at_its_epoch_and_says_so(
    command: Callable, tiny: tuple[str, ...], shards: Path, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*tiny, *STREAM, "data.subset=1", "data.holdout=0", "recipe.batch_size=8", "checkpoint_minutes=0")
    assert command(*overrides, "runs=whole").code == 0
    steps = iter(range(100))
    monkeypatch.setattr(StopFlag, "is_set", lambda self: next(steps) == 6)  # the second step of the second epoch
    code, out, _ = command(*overrides, "runs=stopped")
    assert code == 130
    assert "resumes from the beginning of epoch 2: its data are a stream" in " ".join(out.split())
    assert command(*overrides, "runs=stopped").code == 0
    whole, stopped = weights_of(here / "whole"), weights_of(here / "stopped")
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


# Signals.


@pytest.mark.usefixtures("every_step")
def test_handler_that_was_there_before_has_its_turn_once_the_run_is_saved(
    run_of: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """submitit's puts the job back into the queue."""
    from experiments.launch.worker import train_recorded

    seen: list[tuple[int, str, list[str]]] = []
    run = run_of(*tiny, f"runs={here}")

    def requeue(number: int, frame: object) -> None:
        summary = json.loads((run.directory / "summary.json").read_text())
        seen.append((number, summary["status"], [p.name for p in run.directory.glob("checkpoints/*")]))

    monkeypatch.setattr("experiments.launch.worker.Reporter.step", lambda *_: os.kill(os.getpid(), signal.SIGUSR2))
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)}
    signal.signal(signal.SIGUSR2, requeue)
    try:
        assert train_recorded(run) == 130
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    assert seen == [(signal.SIGUSR2, "unfinished", ["step-00000002.pt"])]


# Checkpoints that are kept.


@pytest.mark.usefixtures("every_step")
def test_all_checkpoints_are_kept_if_so_asked(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    assert command(*tiny, "keep=all", "checkpoint_minutes=0").code == 0
    names = sorted(path.name for path in here.glob("runs/*/checkpoints/*"))
    assert names == [f"step-{step:08d}.pt" for step in range(1, 21)]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 2**10), ("darwin", 1)])
def test_peak_memory_is_in_megabytes(platform: str, unit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system says it in kilobytes, and macOS in bytes."""
    monkeypatch.setattr("sys.platform", platform)
    monkeypatch.setattr("resource.getrusage", lambda _: SimpleNamespace(ru_maxrss=700 * 2**20 // unit))
    assert peak_memory_mb(torch.device("cpu")) == 700


def test_precision_of_a_gpu_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that fails, say: bf16 on a CPU would take fifty times as long, without a word."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(SettingsError, match="precision=bf16 was meant for a GPU"):
        pick_device("auto", "bf16")
    assert pick_device("cpu", "bf16").type == pick_device("auto").type == "cpu"
