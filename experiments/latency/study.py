"""Measures the networks of a study that have not been measured yet, together, and records each."""

from __future__ import annotations

import gc
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from experiments.config.run import Run
from experiments.config.settings import Data
from experiments.errors import DONE, FAILED, SettingsError
from experiments.latency.measure import FEWEST_ROUNDS, Network, Workload, measure
from experiments.latency.record import INFERENCE, TRAINING, Case, Measured, Recorded, Timing, recorded, write_record
from experiments.launch.preflight import amounts, check_device, check_layers, check_optimizer, stated
from experiments.records.record import now
from experiments.runtime.devices import device_name, keep_memory, pick_device
from experiments.runtime.machine import is_busy, processor
from experiments.training.models import cost_of
from roadmap.common.statuses import Status
from roadmap.common.words import counted

CLASSES = 1000
"""Where their number is not known."""


@dataclass(frozen=True)
class Plan:
    """What is measured of each network, and for how long."""

    batch_sizes: tuple[int, ...]
    memory_formats: tuple[str, ...]
    training: bool
    """Whether training steps are timed, too, of the largest batch."""
    rounds: int
    """At most."""
    end: float
    """Of `time.perf_counter`: when the last round ends, about."""
    again: bool
    """Whether to measure what has been measured already."""

    @property
    def timings(self) -> list[Timing]:
        steps = [Timing(TRAINING, max(self.batch_sizes))] if self.training else []
        return [*(Timing(INFERENCE, size) for size in self.batch_sizes), *steps]


class Latency:
    """The cases of a study, and what is left to measure of them."""

    def __init__(self, runs: Sequence[Run], plan: Plan, say: Callable[[str], None]) -> None:
        """
        Raises:
            SettingsError: if a device, a user's layer or an optimizer is impossible.
        """
        self.plan, self.say = plan, say
        self.failures: dict[tuple[Case, Timing], str] = {}
        self.devices: dict[Case, torch.device] = {}
        self.costs: dict[Case, dict[str, int]] = {}
        for run in runs:
            check_device(run, gpus=torch.cuda.is_available())
            check_layers(run)
            check_optimizer(run)
        threads, cpu = torch.get_num_threads(), processor()
        cases: dict[str, Case] = {}
        for run in runs:
            device, classes = pick_device(run.device, run.precision), classes_of(run.data)
            for memory_format in plan.memory_formats:
                case = Case(run, classes, memory_format, device_name(device), cpu, run.threads or threads)
                if cases.setdefault(case.identity, case) is case:
                    self.devices[case] = device
        self.cases = [*cases.values()]
        for case in self.cases:
            try:
                self.costs[case] = cost_of(case.run, case.classes)
            except SettingsError as error:
                self.failures |= dict.fromkeys(((case, timing) for timing in plan.timings), str(error))
        self.kept = {case: recorded(case).complete for case in self.costs}
        """What was measured before: it stays until it has been measured again."""
        self.todo = [
            (case, timing)
            for case in self.costs
            for timing in plan.timings
            if plan.again or timing not in self.kept[case]
        ]

    def measure(self) -> int:
        """Measure what is left. Returns the exit code.

        Raises:
            KeyboardInterrupt: after the rounds that are complete have been recorded. The same command continues.
        """
        if not self.todo:
            return FAILED if self.failures else DONE
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        keep_memory()
        self.busy = is_busy()
        if self.busy:
            self.say("warning: other processes keep this machine busy, so all times will be too long")
        self.started, rounds_before = self._begun()
        self.workloads = [*self._workloads(rounds_before)]
        gc.collect()
        gc.freeze()  # what exists now stays: collecting garbage between passes then takes no time
        try:
            self._record(Status.RUNNING)
            self.failures |= measure(self.workloads, self.plan.rounds, self.plan.end, self._after_round)
        except KeyboardInterrupt:
            self._record(Status.UNFINISHED, "interrupted")
            raise
        finally:
            gc.unfreeze()
        self._record(Status.DONE)
        return FAILED if self.failures else DONE

    def _begun(self) -> tuple[str, dict[tuple[Case, Timing], list[float]]]:
        """When the call began, and the rounds that it has measured already: of a call that was interrupted, if it had
        the same to do; else nothing, now."""
        partial = {
            (case, timing): times
            for case in {case for case, _ in self.todo}
            for timing, times in recorded(case).partial.items()
        }
        begun = {times.started for times in partial.values()}
        if self.plan.again or partial.keys() != {*self.todo} or len(begun) != 1:
            return now(), {}
        shortest = min(len(times.ms) for times in partial.values())
        self.say(f"continuing after {counted(shortest, 'round')}")
        self.busy = self.busy or any(times.busy for times in partial.values())
        return begun.pop(), {key: times.ms[:shortest] for key, times in partial.items()}

    def _workloads(self, rounds_before: dict[tuple[Case, Timing], list[float]]) -> Iterable[Workload]:
        for case in dict.fromkeys(case for case, _ in self.todo):
            timings = [timing for of_case, timing in self.todo if of_case is case]
            try:
                network = Network.build(case, self.devices[case])
            except (RuntimeError, SettingsError) as error:
                reason = " ".join(str(error).split())
                self.failures |= dict.fromkeys(((case, timing) for timing in timings), reason)
                continue
            for timing in timings:
                workload = Workload(network, timing, self.devices[case])
                workload.ms += rounds_before.get((case, timing), [])
                yield workload

    def _after_round(self, number: int, seconds: float) -> None:
        if number == 0:
            self.say(f"the first passes, which do not count, took {seconds:.1f} s")
            return
        self._record(Status.RUNNING)
        if number == 1:
            most = min(self.plan.rounds, 1 + int((self.plan.end - time.perf_counter()) / seconds))
            self.say(f"a round takes {seconds:.1f} s; about {max(most, FEWEST_ROUNDS)} rounds fit into the time")

    def _record(self, status: str, reason: str | None = None) -> None:
        """Record all that is measured now. A case that is done has failed if one of its timings has."""
        is_done = status == Status.DONE
        for case in dict.fromkeys(case for case, _ in self.todo):
            failed = {timing: why for (of_case, timing), why in self.failures.items() if of_case is case}
            times = {
                workload.timing: Measured(self.started, workload.ms, self.busy)
                for workload in self.workloads
                if workload.case is case and workload.ms and workload.timing not in failed
            }
            outcome = (status, reason)
            if is_done and failed:
                outcome = Status.FAILED, "; ".join(f"{timing}: {why}" for timing, why in failed.items())
            facts: dict[str, Any] = {
                "started": self.started,
                "finished": now() if is_done else None,
                **self.costs[case],
            }
            kept = self.kept[case]
            measured = Recorded(kept | times, {}) if is_done else Recorded(kept, times)
            write_record(case, measured, *outcome, **facts)


def classes_of(data: Data) -> int:
    """Of the data if they are here, or as stated; else 1,000."""
    try:
        return amounts(data, enough=1).classes or CLASSES
    except SettingsError:
        return stated(data).classes or CLASSES
