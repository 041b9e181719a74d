"""Which pace a study's networks are priced with, and what its hours are hours of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from experiments.errors import SettingsError
from experiments.plan.network import Network
from experiments.plan.throughput import Pace, Sample, between, measured, read_records, recorded, stated
from experiments.runtime.devices import device_name, pick_device
from experiments.runtime.machine import cores, is_busy
from roadmap.designs import did_you_mean

AT_ONCE = {"cpu": 4e9, "mps": 4e10, "cuda": 1e12}
"""Multiply-adds of a measured forward pass."""
BUDGET = 10
"""Seconds for all measurements together."""


class Clock:
    """The paces of a study's networks: all from what was stated if anything was; else what records of the same network
    on the same device say, and what was measured here of the rest.

    Raises:
        SettingsError: if a network of another name is stated, or the device is not here and nothing is stated.
    """

    def __init__(
        self,
        networks: Sequence[Network],
        images_per_second: Mapping[str | None, float],
        side_by_side: int | None,
        runs_per_gpu: int = 1,
    ) -> None:
        run = networks[0].run
        self.is_stated = bool(images_per_second)
        self.device = None if self.is_stated else pick_device(run.device)
        self.unit = "core" if run.device == "cpu" or (self.device and self.device.type == "cpu") else "GPU"
        gpus = 1 if self.unit == "core" else self._gpus(run.split.processes)
        self.side_by_side = side_by_side or (cores() if self.unit == "core" else gpus * runs_per_gpu)
        self.runs_per_gpu = 1 if self.unit == "core" else min(runs_per_gpu, self.side_by_side)
        self.threads = run.threads or _threads(self.side_by_side)
        self.devices = run.split.processes * (self.threads if self.unit == "core" else 1)
        """GPUs, or cores, of one run."""
        self.busy = False
        """Whether something else ran on the cores that were measured."""
        self.paces = _stated(networks, images_per_second) if self.is_stated else self._found(networks)

    def _found(self, networks: Sequence[Network]) -> dict[str, Pace]:
        records = {runs: read_records(runs) for runs in {network.run.runs for network in networks}}
        paces = {}
        for one in networks:
            asked = records[one.run.runs], one.run, one.macs, self.device, self.threads
            if pace := recorded(*asked, self.runs_per_gpu) or recorded(*asked):
                paces[one.run.series] = pace
        missing = [
            Sample(one.run, one.macs, one.classes, self._at_once(one))
            for one in networks
            if one.left and one.run.series not in paces
        ]
        if not missing:
            return paces
        self.busy = self.unit == "core" and is_busy()
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            return paces | measured(missing, self.device, BUDGET)
        finally:
            torch.set_num_threads(before)

    def _at_once(self, network: Network) -> int:
        """Images to measure with: enough to keep the device busy for a moment, an even number that it has room for."""
        images = max(2, int(AT_ONCE[self.device.type] / network.macs) // 2 * 2)
        if self.device.type == "cuda" and network.footprint.an_image:
            free, _ = torch.cuda.mem_get_info(self.device)
            images = min(
                images, max(2, int((0.7 * free - network.footprint.fixed) / network.footprint.an_image) // 2 * 2)
            )
        return min(network.run.split.micro_batch_size, images)

    def _gpus(self, processes: int) -> int:
        """Runs at a time that have the GPUs here to themselves; one if the study is to be trained elsewhere."""
        return 1 if self.is_stated else max(1, torch.cuda.device_count() // processes)

    def pace(self, network: Network) -> Pace | None:
        """None if there is no other to go by: all runs are done, on another device."""
        known = [*self.paces.values()]
        return self.paces.get(network.run.series) or (between(known, network.macs) if known else None)

    def note(self, networks: Sequence[Network]) -> str:
        """Where the hours come from."""
        sources: dict[str, list[Network]] = {}
        for one in networks if self.paces else ():
            sources.setdefault(self.pace(one).source, []).append(one)
        said = []
        for source, ones in sources.items():
            if source == "stated":
                rates = [f"{1 / self.pace(one).training:,.0f} images/s of {one.title}" for one in ones]
                said.append(f"stated: {', '.join(rates)}")
            elif source == "between":
                said.append(f"{_networks(ones)} by multiply-adds")
            elif source == "recorded":
                said.append(f"{_networks(ones)} as records of this device say")
            elif source == "shared":
                said.append(f"{_networks(ones)} as records of {self.runs_per_gpu} runs on this GPU at a time say")
            else:
                threads = f", {self.threads} thread{'' if self.threads == 1 else 's'}" if self.unit == "core" else ""
                said.append(f"{_networks(ones)} measured here ({device_name(self.device)}{threads})")
        if self.runs_per_gpu > 1 and {*sources} - {"shared"}:
            said.append(
                f"how much {self.runs_per_gpu} runs on a GPU slow each other down is not known: from not at all to as "
                "if each had it in turn"
            )
        return "; ".join(said) or "nowhere: all runs are done, on another device"


def _threads(side_by_side: int) -> int:
    """Of each of so many runs on a CPU."""
    return torch.get_num_threads() if side_by_side == 1 else max(1, cores() // side_by_side)


def _networks(ones: Sequence[Network]) -> str:
    return ones[0].title if len(ones) == 1 else f"{len(ones)} networks"


def _stated(networks: Sequence[Network], images_per_second: Mapping[str | None, float]) -> dict[str, Pace]:
    paces = {}
    for name, rate in images_per_second.items():
        one = next((it for it in networks if name in (None, it.run.label, it.title)), None)
        if one is None:
            known = [it.run.label for it in networks]
            raise SettingsError(f"--images-per-second is of no network {name!r}{did_you_mean(name, known)}")
        paces[one.run.series] = stated(one.macs, rate)
    return paces
