"""What the tests of runs share: the command line in this process or in one of its own, and runs of a second or two."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch starts: tests run side by side

import gc
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, partial
from multiprocessing.forkserver import ensure_running
from pathlib import Path
from typing import Any, NamedTuple

import hydra
import numpy as np
import pytest
from forked import Forked
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from experiments.config.overrides import with_steps
from experiments.config.run import Run, to_run
from experiments.config.settings import register
from experiments.train import main
from roadmap.conf import CONF, OURS


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: one more than there are cores, for tests of clusters, browsers and W&B wait for those."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_finish() -> None:
    """What is imported stays: spare the garbage collector half a million objects, a third of a second each time.

    Holm's correction in statsmodels collects garbage whenever it is called.
    """
    gc.freeze()


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def small() -> tuple[str, ...]:
    """Overrides of a run of 20 steps, 200 images a epoch, evaluated on the 10,000 test images."""
    network = ("design.width=8", "design.depths=[1,1,1,1]")
    return (*network, "data.subset=0.02", "recipe.epochs=2", "recipe.batch_size=20", "threads=1", "device=cpu")


@pytest.fixture(scope="session")
def tiny(small: tuple[str, ...]) -> tuple[str, ...]:
    """The same evaluated on 200 held-out images: a second."""
    return (*small, "data.holdout=0.02")


@pytest.fixture(scope="session")
def run_of() -> Callable[..., Run]:
    """The run that overrides ask for, as the training command composes it."""
    register()

    @cache
    def compose(*overrides: str) -> Run:
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            return to_run(hydra.compose("config", with_steps(overrides, OURS)))

    return compose


CLASSES, IMAGES = 3, {"train": 16, "val": 8}  # of the photographs: classes, and images of each in each split


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of JPEGs, `train/CLASS/*` and `val/CLASS/*`: 3 classes with 16 and 8 images each. Only to be read.

    Links to real photographs where `ROADMAP_PHOTOGRAPHS` names a folder of that layout, otherwise noise on gradients
    (64 x 64) whose direction is their class.
    """
    folder = tmp_path_factory.mktemp("photographs")
    source = os.environ.get("ROADMAP_PHOTOGRAPHS")
    for split, images in IMAGES.items():
        if source:
            for label in sorted(path for path in Path(source, split).iterdir() if path.is_dir())[:CLASSES]:
                (folder / split / label.name).mkdir(parents=True)
                for image in sorted(label.iterdir())[:images]:
                    (folder / split / label.name / image.name).symlink_to(image.resolve())
        else:
            _draw(folder / split, images)
    return folder


@pytest.fixture(scope="session")
def small_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same layout, of images that are too small to be cropped at 32 px."""
    folder = tmp_path_factory.mktemp("small_images")
    for part in IMAGES:
        for label in "abc":
            (folder / part / label).mkdir(parents=True)
            for number in range(8):
                Image.new("RGB", (16, 16)).save(folder / part / label / f"{number}.png")
    return folder


def _draw(folder: Path, images: int) -> None:
    generator = np.random.default_rng(images)
    down, across = np.mgrid[0:256:4, 0:256:4]
    for label, gradient in {"across": across, "diagonal": (down + across) / 2, "down": down}.items():
        (folder / label).mkdir(parents=True)
        for i in range(images):
            noisy = gradient[..., None] * generator.uniform(0.5, 1, 3) + generator.normal(0, 20, (64, 64, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / label / f"{i}.jpeg")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop looks after every step: a test can count them."""
    monkeypatch.setattr("experiments.training.sync.SECONDS_APART", 0)


@pytest.fixture
def call(here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A command line's `main` in this process, in an empty working directory."""
    for name in ("HYDRA_FULL_ERROR", "THP_MEM_ALLOC_ENABLE"):  # main sets them; here that is undone after the test
        monkeypatch.setenv(name, "1")

    def call(main: Callable[[], None], *arguments: str) -> Outcome:
        assert not GlobalHydra.instance().is_initialized()
        monkeypatch.setattr(sys, "argv", [main.__module__, *arguments])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        return Outcome(code, *capsys.readouterr())

    return call


@pytest.fixture
def command(call: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`python -m experiments.train ...` in this process, in an empty working directory."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # a run takes over the process's signals: not pytest's
    return partial(call, main)


@pytest.fixture
def study_runs(command: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Run]]:
    """The runs that a study would train."""

    def runs_of(*arguments: str) -> list[Run]:
        studies = []
        monkeypatch.setattr("experiments.launch.local.train_study", lambda study, machine: studies.append(study))
        assert command("-m", *arguments).code == 0
        [study] = studies
        return study.todo

    return runs_of


@pytest.fixture
def launch(here: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """`python -m experiments.train ...` in a process of its own, in an empty working directory.

    Whatever it has started and still runs at the end of the test is killed.
    """
    started = []

    def start(*arguments: str, **environment: str) -> subprocess.Popen:
        words = [sys.executable, "-m", "experiments.train", *arguments]
        process = subprocess.Popen(
            words,
            cwd=here,
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="session")
def server() -> None:
    """The server that processes are forked from, in a folder that is no test's."""
    ensure_running()


@pytest.fixture
def fork(server: None, here: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Forked]]:
    """The same as `launch`, without the seconds that its imports take: see forked.py."""
    started: list[Forked] = []
    outputs = tmp_path_factory.mktemp("outputs")

    def start(*arguments: str, **environment: str) -> Forked:
        output = outputs / str(len(started))
        started.append(Forked(arguments, here, os.environ | environment, output))
        return started[-1]

    yield start
    for forked in started:
        with suppress(ProcessLookupError):
            os.killpg(forked.pid, signal.SIGKILL)
        forked.wait()


@pytest.fixture(scope="session")
def wait_for() -> Callable[[Callable[[], Any]], Any]:
    """The first true value of a condition; fails if there is none within two minutes."""

    def wait(condition: Callable[[], Any]) -> Any:
        began = time.monotonic()
        while not (value := condition()):
            waited = time.monotonic() - began
            assert waited < 120, "waited in vain"
            time.sleep(0.02 + waited / 20)  # to ask often costs what is waited for its processor
        return value

    return wait


@pytest.fixture(scope="session")
def summaries() -> Callable[[Path], dict[str, dict[str, Any]]]:
    """{directory's name: summary} of the runs under a folder."""
    return lambda runs: {path.parent.name: json.loads(path.read_text()) for path in sorted(runs.glob("*/summary.json"))}
