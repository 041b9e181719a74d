"""Studies on a real SLURM: controller, node and munge, all on this machine (tests/slurm_cluster.py)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import slurm_cluster
import torch
from forked import Forked

from experiments.config.run import Run
from experiments.launch.slurm import Job, SharedJob, in_queue

pytestmark = pytest.mark.xdist_group("slurm")  # all share one cluster with two CPUs

LAUNCH = ("-m", "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=0", "hydra.launcher.cpus_per_task=1")
WAIT = "hydra.launcher.wait=true"
STEPS = 196  # of an epoch of `long`
METRICS = ("epoch", "lr", "train_loss", "val_loss", "top1", "top5")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a running cluster, whose commands find it through SLURM_CONF."""
    if lacking := slurm_cluster.missing():
        why = f"there is no SLURM here: {', '.join(lacking)} not found (Debian: apt-get install slurm-wlm munge)"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in slurm_cluster.start(folder).items():
            patch.setenv(name, value)
        yield folder
        slurm_cluster.stop(folder)


@pytest.fixture(autouse=True)
def empty(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test leaves no job behind and the node available; the queue is polled more often."""
    monkeypatch.setattr("experiments.launch.slurm.POLL", 0.5)
    yield
    ask("scancel", "--me")
    ask("scontrol", "update", "NodeName=localhost", "State=resume")


@pytest.fixture(scope="session")
def long(tiny: tuple[str, ...]) -> tuple[str, ...]:
    """A run of a few seconds, two epochs of STEPS, with mixup, stochastic depth and BatchNorm."""
    return (*tiny, "recipe=convnext", "recipe.epochs=2", "recipe.lr=1e-3", "data.subset=0.4")


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60).stdout


def jobs_in_queue() -> list[str]:
    return ask("squeue", "--noheader", "--array", "--format=%i").split()


def times_trained(runs: Path) -> list[int]:
    return [path.read_text().count("training runs/") for path in runs.glob("*/log.txt")]


def the_log(runs: Path) -> str:
    [log] = runs.glob("*/log.txt")
    return log.read_text()


def times_resumed(runs: Path) -> list[int]:
    return [len(steps_when_resumed(path.read_text())) for path in runs.glob("*/log.txt")]


def command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def holders(path: Path) -> list[int]:
    """The processes that have a file open."""
    pids = []
    for opened in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if opened.readlink() == path:
                pids.append(int(opened.parts[2]))
    return pids


def result(runs: Path) -> tuple[list, dict[str, torch.Tensor]]:
    [directory] = (path.parent for path in runs.glob("*/weights.pt"))
    rows = [json.loads(line) for line in (directory / "epochs.jsonl").read_text().splitlines()]
    return [[row[name] for name in METRICS] for row in rows], torch.load(directory / "weights.pt", weights_only=True)


def assert_identical(first: Path, second: Path) -> None:
    (rows, weights), (other_rows, other_weights) = result(first), result(second)
    assert rows == other_rows
    assert weights.keys() == other_weights.keys()
    assert all(torch.equal(weights[name], other_weights[name]) for name in weights)


def steps_when_resumed(log: str) -> list[int]:
    return [int(line.split("after step ")[1].split()[0]) for line in log.splitlines() if "resuming after" in line]


@pytest.fixture
def submitted(command: Callable, here: Path, long: tuple[str, ...], wait_for: Callable) -> Callable[..., str]:
    """A `long` run on the cluster, in its second epoch. Returns the number of its job."""

    def submit(*overrides: str) -> str:
        launched = command(*LAUNCH, *long, *overrides)
        assert (launched.code, launched.err) == (0, "")
        wait_for(lambda: any(path.read_text() for path in here.glob("runs/*/epochs.jsonl")))
        [summary] = (json.loads(path.read_text()) for path in here.glob("runs/*/summary.json"))
        return summary["job"]["id"]

    return submit


@pytest.fixture(scope="module")
def undisturbed(server: None, long: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the same run trained here, without SLURM."""
    whole = tmp_path_factory.mktemp("whole")
    process = Forked((*long, "runs=."), whole, {**os.environ}, whole / "said")
    assert process.wait() == 0, process.output.read_text()
    return whole


def test_study_is_an_array_that_is_submitted_once(
    fork: Callable, command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    """By two launchers at the same time; a run that diverges does not affect the other; failures are named."""
    arguments = (*LAUNCH, *tiny, "recipe.lr=0.05,1e12", WAIT)
    launchers = [fork(*arguments) for _ in range(2)]
    outputs = [process.communicate(timeout=200)[0] for process in launchers]
    assert [process.returncode for process in launchers] == [1, 1], outputs
    assert times_trained(here / "runs") == [1, 1]
    runs = summaries(here / "runs")
    assert sorted(summary["status"] for summary in runs.values()) == ["diverged", "done"]
    jobs = [summary["job"] for summary in runs.values()]
    assert len({job["name"] for job in jobs}) == len({job["id"].partition("_")[0] for job in jobs}) == 1
    assert sorted(job["index"] for job in jobs) == [0, 1]
    assert all("1 of 2 runs are done" in out for out in outputs)
    assert "2 submitted" in "".join(outputs)
    assert "2 in the queue already" in "".join(outputs)
    code, out, _ = command(*LAUNCH, *tiny)
    assert (code, out) == (0, "1 run: 1 done already\n")


def test_study_of_folders_ends_the_jobs_of_runs_that_fail(
    photographs: Path, small_images: Path, command: Callable, tiny: tuple[str, ...], wait_for: Callable
) -> None:
    """Also if a loader worker cannot read an image."""
    network = tiny[:2]
    overrides = (*network, "recipe.epochs=1", "recipe.batch_size=8", "data=folder", "workers=2", "device=cpu")
    code, out, _ = command(*LAUNCH, *overrides, f"data.path={photographs},{small_images}", WAIT)
    assert code == 1
    assert "1 of 2 runs are done" in out
    assert "padded by 4 px and cropped" in " ".join(out.split())
    wait_for(lambda: not jobs_in_queue())


def test_several_processes_train_a_run(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    code, out, _ = command(*LAUNCH, *tiny, "hydra.launcher.tasks_per_node=2", WAIT)
    assert code == 0, out
    [summary] = summaries(here / "runs").values()
    assert (summary["status"], summary["processes"], summary["evaluation_images"]) == ("done", 2, 200)
    assert times_trained(here / "runs") == [1]


def test_stopped_before_its_time_limit_a_run_resumes_bit_identical(
    submitted: Callable, undisturbed: Path, here: Path, wait_for: Callable, summaries: Callable
) -> None:
    """SIGUSR2, which SLURM sends signal_delay_s before the limit, in the middle of an epoch. W&B has a single run."""
    job = submitted("logger=wandb", "logger.mode=offline")
    [before] = (summary["wandb"] for summary in summaries(here / "runs").values())
    ask("scancel", "--signal=USR2", job)
    wait_for(lambda: "queued" in {summary["status"] for summary in summaries(here / "runs").values()})
    wait_for(lambda: list(here.glob("runs/*/weights.pt")))
    [step] = steps_when_resumed(the_log(here / "runs"))
    assert STEPS < step < 2 * STEPS
    assert_identical(here / "runs", undisturbed)
    wait_for(lambda: len(copies := list(here.glob("runs/*/wandb/offline-run-*"))) == 2 and copies)
    assert {path.name.rpartition("-")[2] for path in here.glob("runs/*/wandb/offline-run-*")} == {before["id"]}
    [after] = (summary["wandb"] for summary in summaries(here / "runs").values())
    assert after == before


@pytest.mark.parametrize("partition", ["main", "graceful"])
def test_preempted_by_a_more_urgent_job_a_run_resumes_bit_identical(
    partition: str, submitted: Callable, undisturbed: Path, here: Path, wait_for: Callable
) -> None:
    """At once, or with a grace time, which a run that has saved does not use up."""
    job = submitted(f"hydra.launcher.partition={partition}")
    ask("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: list(here.glob("runs/*/weights.pt")))
    assert "Restarts=1" in ask("scontrol", "show", "job", job)
    [step] = steps_when_resumed(the_log(here / "runs"))
    assert STEPS < step < 2 * STEPS
    assert_identical(here / "runs", undisturbed)


def processes_of(job: str) -> list[int]:
    """The processes of a job that train."""
    variables = f"SLURM_JOB_ID={job}\0".encode(), b"SUBMITIT_EXECUTOR=slurm\0"
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environment, arguments = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if all(variable in environment for variable in variables) and b"submitit.core._submit\0" in arguments:
            pids.append(int(process.name))
    return pids


@pytest.mark.parametrize("killed", ["process", "node"])
def test_killed_run_is_requeued_and_resumes_bit_identical(
    killed: str, cluster: Path, submitted: Callable, undisturbed: Path, here: Path, wait_for: Callable
) -> None:
    """By SIGKILL, or because the node fails."""
    job = submitted("checkpoint_minutes=0.005")
    trains = [pid for pid in processes_of(job) if b"srun" not in command_line(pid)]
    assert trains
    if killed == "node":
        slurm_cluster.end(cluster, "slurmd")
        subprocess.run(["pkill", "-9", "-f", "slurmstepd: .*" + job.partition("_")[0]])
        subprocess.run(["pkill", "-9", "-f", f"srun .*{here}"])
    for pid in trains:
        os.kill(pid, signal.SIGKILL)
    if killed == "node":
        wait_for(lambda: "down" in ask("sinfo", "--noheader", "--format=%t"))
        slurm_cluster.start_node(cluster)
    wait_for(lambda: list(here.glob("runs/*/weights.pt")))
    assert "Restarts=1" in ask("scontrol", "show", "job", job)
    assert len(steps_when_resumed(the_log(here / "runs"))) == 1
    assert_identical(here / "runs", undisturbed)


def test_run_trains_what_it_was_launched_as(
    command: Callable, tiny: tuple[str, ...], here: Path, wait_for: Callable, summaries: Callable
) -> None:
    """On a drained node it waits; a second launch does not submit it again; files edited meanwhile do not affect it."""
    study = here / "own" / "study" / "mine.yaml"
    study.parent.mkdir(parents=True)
    study.write_text("# @package _global_\nstudy_name: mine\nrecipe: {weight_decay: 0.011}\n")
    arguments = (*LAUNCH, *tiny, "study=mine", "--config-dir", str(here / "own"))
    ask("scontrol", "update", "NodeName=localhost", "State=drain", "Reason=test")
    code, out, err = command(*arguments)
    assert (code, err) == (0, "")
    assert out.startswith("1 run: 1 submitted (job ")
    code, out, _ = command(*arguments)
    assert (code, out.splitlines()[0]) == (0, "1 run: 1 in the queue already")
    assert len(jobs_in_queue()) == 1
    [summary] = summaries(here / "runs").values()
    assert (summary["status"], summary["study"], summary["job"]["id"]) == ("queued", "mine", jobs_in_queue()[0])
    study.write_text("# @package _global_\nstudy_name: mine\nrecipe: {weight_decay: 0.022}\n")
    ask("scontrol", "update", "NodeName=localhost", "State=resume")
    wait_for(lambda: list(here.glob("runs/*/weights.pt")))
    [config] = here.glob("runs/*/config.json")
    assert json.loads(config.read_text())["recipe"]["weight_decay"] == 0.011


@pytest.mark.parametrize(("when", "runs"), [("submitting", 2), ("submitted", 1)])
def test_launcher_that_is_killed_loses_nothing(
    when: str, runs: int, launch: Callable, command: Callable, tiny: tuple[str, ...], here: Path, wait_for: Callable
) -> None:
    """While it submits or just after; each run is trained once."""
    arguments = (*LAUNCH, *tiny, f"seed={','.join(map(str, range(runs)))}")
    process = launch(*arguments)
    wait_for(lambda: len(list(here.glob("runs/*/summary.json"))) == runs and (when == "submitting" or jobs_in_queue()))
    process.kill()
    process.wait()
    code, out, _ = command(*arguments, WAIT)
    if code and when == "submitting":  # SLURM had the jobs, but not yet the files that they read and wait for
        assert "left the queue before it was done" in out
        code, out, _ = command(*arguments, WAIT)
    assert code == 0, out
    assert f"{runs} of {runs} runs are done" in out
    assert times_trained(here / "runs") == [1] * runs


def test_local_launcher_does_not_train_runs_in_the_queue(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    ask("scontrol", "update", "NodeName=localhost", "State=drain", "Reason=test")
    assert command(*LAUNCH, *tiny).code == 0
    code, out, _ = command("-m", *tiny, "seed=0,1")
    assert code == 0
    assert "2 runs, 1 queued or running in SLURM" in out
    assert "1 of 2 runs are done" in out
    ask("scancel", "--me")
    code, out, _ = command("-m", *tiny, "seed=0,1")
    assert (code, "2 of 2 runs are done" in out) == (0, True)


def test_waiting_launcher_reports_a_run_that_leaves_the_queue_untrained(
    launch: Callable, tiny: tuple[str, ...], wait_for: Callable
) -> None:
    ask("scontrol", "update", "NodeName=localhost", "State=drain", "Reason=test")
    process = launch(*LAUNCH, *tiny, WAIT)
    wait_for(jobs_in_queue)
    ask("scancel", "--me")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "0 of 1 runs are done" in out
    assert "left the queue before it was" in out


def test_refusal_by_slurm_is_one_line_and_leaves_no_trace(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    code, out, err = command(*LAUNCH, *tiny, "seed=0,1", "hydra.launcher.partition=nowhere")
    assert (code, out) == (2, "")
    assert err == "error: SLURM refuses the jobs: Batch job submission failed: Invalid partition name specified\n"
    assert not list(here.glob("runs/*/summary.json"))


def test_queue_that_does_not_answer_is_not_an_empty_queue(
    command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask("scontrol", "update", "NodeName=localhost", "State=drain", "Reason=test")
    assert command(*LAUNCH, *tiny).code == 0
    (here / "bin").mkdir()
    (here / "bin" / "squeue").write_text(
        "#!/bin/sh\necho slurm_load_jobs error: Unable to contact controller >&2\nexit 1\n"
    )
    (here / "bin" / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{here / 'bin'}:{os.environ['PATH']}")
    for launcher in (LAUNCH, ("-m",)):
        code, _, err = command(*launcher, *tiny)
        assert (code, err.count("\n")) == (2, 1)
        assert "squeue does not answer, so what SLURM is training already is not known" in err
    assert len(times_trained(here / "runs")) == 0


def test_changed_sources_stop_a_run_unless_they_are_allowed(
    run_of: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run: Run = run_of(*tiny)
    trained = []
    monkeypatch.setattr("experiments.launch.worker.train_in_child", lambda run, _: trained.append(run))
    with pytest.raises(SystemExit) as end:
        Job((run,), {"roadmap/block.py": "as it was"}, changed_sources=False)()
    assert end.value.code == 2
    assert trained == []
    summary = json.loads((here / run.directory / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "the sources have changed since this run was launched (" in summary["reason"]
    assert capsys.readouterr().err == f"error: {summary['reason']}\n"
    Job((run,), {"roadmap/block.py": "as it was"}, changed_sources=True)()
    assert trained == [run]
    assert in_queue([run]) == set()


def test_if_one_process_fails_the_others_are_killed_and_the_job_ends(
    command: Callable, tiny: tuple[str, ...], here: Path, monkeypatch: pytest.MonkeyPatch, wait_for: Callable
) -> None:
    """With NCCL they would wait for ever. The failed job is not requeued, and nobody else may write its files."""

    class Half(Job):  # which is pickled as it is, for a job cannot import this file
        def train(self) -> None:
            rank, sleep = os.environ["SLURM_PROCID"], __import__("time").sleep
            worker = sys.modules["experiments.launch.worker"] = __import__("types").ModuleType(
                "worker"
            )  # without torch
            worker.train_in_child = lambda *_: sys.exit(1) if rank == "1" else sleep(600)
            super().train()

    monkeypatch.setattr("experiments.launch.slurm.Job", Half)
    assert command(*LAUNCH, *tiny, "hydra.launcher.tasks_per_node=2").code == 0
    [folder] = here.glob("runs/studies/slurm/*")
    assert folder.stat().st_mode & 0o777 == 0o700
    wait_for(lambda: not jobs_in_queue())
    [log] = folder.glob("*_0_log.err")
    assert log.read_text().count("task 1: Exited with exit code 1") == 1
    assert "task 0: Killed" in log.read_text()


def test_percent_sign_in_the_folder_of_runs_is_refused(command: Callable, tiny: tuple[str, ...], here: Path) -> None:
    code, _, err = command(*LAUNCH, *tiny, "runs=a%j")
    assert (code, err.count("\n")) == (2, 1)
    assert f"SLURM would replace the % in {here / 'a%j'}" in err
    assert not list(here.glob("a*"))


SHARED = ("hydra.launcher.runs_per_job=2", "hydra.launcher.cpus_per_task=2")


@pytest.fixture
def shared(command: Callable, here: Path, long: tuple[str, ...], wait_for: Callable) -> Callable[..., str]:
    """A job of two `long` runs, both in their second epoch. Returns the job's number."""

    def submit(*overrides: str) -> str:
        launched = command(*LAUNCH, *long, *SHARED, "seed=0,1", *overrides)
        assert (launched.code, launched.err) == (0, "")
        wait_for(lambda: len([path for path in here.glob("runs/*/epochs.jsonl") if path.read_text()]) == 2)
        jobs = {json.loads(path.read_text())["job"]["id"] for path in here.glob("runs/*/summary.json")}
        [job] = jobs
        return job

    return submit


def test_runs_share_a_job_and_a_failure_does_not_affect_the_others(
    command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    code, out, _ = command(*LAUNCH, *tiny, *SHARED, "recipe.lr=0.05,1e12", "seed=0,1", WAIT)
    assert code == 1
    assert "2 of 4 runs are done" in out
    runs = summaries(here / "runs").values()
    assert sorted(summary["status"] for summary in runs) == ["diverged", "diverged", "done", "done"]
    assert sorted(summary["job"]["index"] for summary in runs) == [0, 0, 1, 1]
    assert times_trained(here / "runs") == [1, 1, 1, 1]


def test_runs_of_a_job_share_its_gpus(
    server: None,
    run_of: Callable,
    tiny: tuple[str, ...],
    here: Path,
    summaries: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    runs = tuple(run_of(*tiny, "device=auto", "precision=float32", f"seed={seed}") for seed in range(3))
    SharedJob(runs, {}, True, cores=4, runs_per_gpu=2, patience=10)()
    trained = summaries(here / "runs").values()
    assert sorted(summary["gpus"] for summary in trained) == ["0", "0", "1"]
    assert {(summary["status"], summary["runs_per_gpu"]) for summary in trained} == {("done", 2)}


def test_stopped_shared_job_is_requeued_and_trains_the_remaining_runs(
    shared: Callable, here: Path, wait_for: Callable
) -> None:
    """Both runs save before the time limit and when preempted; when the job's process is killed, so are they."""
    job = shared("checkpoint_minutes=0.02", "recipe.epochs=20", "hydra.launcher.partition=graceful")
    ask("scancel", "--signal=USR2", job)
    wait_for(lambda: times_resumed(here / "runs") == [1, 1])
    ask("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 1")
    wait_for(lambda: times_resumed(here / "runs") == [2, 2])
    os.kill(next(pid for pid in processes_of(job) if b"srun" not in command_line(pid)), signal.SIGKILL)
    wait_for(lambda: times_resumed(here / "runs") == [3, 3])
    assert "Restarts=3" in ask("scontrol", "show", "job", job)


def test_run_whose_process_is_killed_in_a_shared_job_is_tried_again_there(
    shared: Callable, here: Path, wait_for: Callable, summaries: Callable
) -> None:
    job = shared()
    first, _ = sorted(here.glob("runs/*/lock"))
    [process] = holders(first)
    os.kill(process, signal.SIGKILL)
    wait_for(lambda: len(list(here.glob("runs/*/weights.pt"))) == 2)
    wait_for(lambda: not jobs_in_queue())
    assert "Restarts=0" in ask("scontrol", "show", "job", job)
    first, second = summaries(here / "runs").values()
    assert (first["status"], first["retried_alone"]) == ("done", "its process died (SIGKILL)")
    assert (second["status"], second["retried_alone"]) == ("done", None)


def test_tuned_study_trains_its_second_phase_in_jobs_too(
    command: Callable, small: tuple[str, ...], here: Path, wait_for: Callable, summaries: Callable
) -> None:
    """A job launches it when those of the search have ended; a second command meanwhile submits nothing twice."""
    tuning = ("tune=[1e-12,0.1]", "tuning_seeds=[7]", "tuning_holdout=0.02")
    arguments = (*LAUNCH, *small, "rung=resnet", *tuning)
    ask(
        "scontrol", "update", "NodeName=localhost", "State=drain", "Reason=test"
    )  # no job ends before the second command
    code, out, _ = command(*arguments)
    assert code == 0
    assert "the second phase starts when these have ended" in " ".join(out.split())
    assert "its second phase waits in the queue already" in command(*arguments).out
    ask("scontrol", "update", "NodeName=localhost", "State=resume")

    def rates() -> list[float]:
        """Of the runs on all images that are done."""
        done = [path for path, summary in summaries(here / "runs").items() if summary["status"] == "done"]
        configs = [json.loads((here / "runs" / name / "config.json").read_text()) for name in done]
        return [config["recipe"]["lr"] for config in configs if not config["data"]["holdout"]]

    wait_for(lambda: len(rates()) == 2)
    assert sorted(rates()) == [0.05, 0.1]  # the recipe's own, and the better one of the two
    assert times_trained(here / "runs") == [1, 1, 1, 1]


IN_TURNS = ("hydra.launcher.array_parallelism=1",)
IN_TURNS_IN_A_JOB = ("hydra.launcher.runs_per_job=4", "hydra.launcher.cpus_per_task=1")


@pytest.mark.parametrize("launcher", [IN_TURNS, IN_TURNS_IN_A_JOB], ids=["array", "job"])
def test_after_the_failures_that_fail_fast_allows_no_run_starts(
    launcher: tuple[str, ...], command: Callable, tiny: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    code, out, _ = command(*LAUNCH, *tiny, WAIT, *launcher, "recipe.lr=1e12,0.05", "seed=0,1", "fail_fast=2")
    assert (code, "0 of 4 runs are done" in out) == (1, True)
    runs = summaries(here / "runs").values()
    assert sorted(summary["status"] for summary in runs) == ["diverged", "diverged", "unfinished", "unfinished"]
    reasons = [summary["reason"] for summary in runs if summary["status"] == "unfinished"]
    assert all(reason.startswith("fail_fast=2: 2 runs failed (nano-") for reason in reasons)
    assert len(times_trained(here / "runs")) == 2


def test_beyond_max_hours_no_run_starts_and_none_is_submitted(
    command: Callable, tiny: tuple[str, ...], small: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    study = (*LAUNCH, *tiny, WAIT, *IN_TURNS, "seed=0,1")
    code, out, _ = command(*study, "max_hours=1e-9")
    assert (code, "1 of 2 runs are done" in out, "failed" in out) == (0, True, False)
    assert "core-hours are spent, so no more runs start" in out
    assert sorted(summary["status"] for summary in summaries(here / "runs").values()) == ["done", "unfinished"]
    code, out, _ = command(*study, "max_hours=1e-9")
    assert (code, "2 runs: 1 done already, 1 not submitted" in out, "failed" in out) == (0, True, False)
    code, out, _ = command(*LAUNCH, *small, "max_hours=1e-9", "tune=[1e-12,0.1]", "tuning_holdout=0.02")
    assert (code, "the second phase is not submitted: its search has not ended" in out) == (0, True)
    assert not jobs_in_queue()
    assert command(*study, "max_hours=1").code == 0


def test_search_that_diverges_is_a_result_for_limits_and_counts(
    command: Callable, small: tuple[str, ...], here: Path, summaries: Callable
) -> None:
    study = (*LAUNCH, *small, WAIT, *IN_TURNS, "tune=[1e12,0.05]", "tuning_seeds=[7]", "tuning_holdout=0.02")
    code, out, _ = command(*study, "fail_fast=1")
    assert (code, out.count("2 of 3 runs are done, 1 diverged")) == (0, 2)
    assert "3 runs: 2 done already, 1 diverged" in out
