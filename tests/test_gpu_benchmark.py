"""benchmarks/gpu.py on a CPU: that its checks pass here, and how it reads a trace of a GPU."""

from pathlib import Path

import pytest
import torch

from benchmarks.gpu import CHECKS
from benchmarks.gpu_speeds import QUICK, Bench, speed, waits

torch.set_num_threads(1)


@pytest.mark.parametrize("check", ["fp16 scaling", "fused", "erasing", "cropping"])
def test_check_passes(check: str, tmp_path: Path) -> None:
    rows = []
    CHECKS[check].run(Bench(torch.device("cpu"), QUICK, tmp_path), rows.append)
    assert rows
    assert all(row["ok"] for row in rows), rows


def test_speed_is_measured_in_turns(tmp_path: Path) -> None:
    rows = {}
    bench = Bench(torch.device("cpu"), QUICK, tmp_path)
    speed(bench, lambda row: rows.update({row["what"]: row}), "ConvNeXt-T")
    assert rows.keys() == {"train()", "bare step", "timm's train.py"}
    assert all(row["images/s"] > 0 for row in rows.values())


def test_trace_names_what_the_host_waits_for() -> None:
    """A copy of 30 us, a kernel of 50 beside it, 20 us of nothing, and one of 10: busy 80 of 100 us."""

    def event(cat: str, name: str, ts: float, dur: float, tid: int = 1) -> dict:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur, "tid": tid}

    events = [
        {"ph": "M", "name": "process_name"},
        event("cpu_op", "aten::item", 1000, 60),
        event("cpu_op", "aten::_local_scalar_dense", 1001, 58),
        event("cuda_runtime", "cudaMemcpyAsync", 1002, 3),
        event("cuda_runtime", "cudaStreamSynchronize", 1006, 50),
        event("cuda_runtime", "cudaLaunchKernel", 1070, 4),
        event("cuda_runtime", "cudaStreamSynchronize", 1006, 2, tid=2),
        event("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 2000, 30, tid=7),
        event("kernel", "gemm", 2020, 50, tid=8),
        event("kernel", "relu", 2090, 10, tid=7),
    ]
    rows = {row["what"]: row for row in waits(events, steps=2)}
    assert rows["device idle"]["share"] == pytest.approx(0.2)
    assert rows["device idle"]["ms per step"] == pytest.approx(0.01)
    assert rows["Memcpy DtoH (Device -> Pageable)"]["per step"] == 0.5
    slowest = rows["cudaStreamSynchronize in aten::_local_scalar_dense"]
    assert slowest["ms per step"] == pytest.approx(0.025)
    assert rows["cudaStreamSynchronize"]["ms per step"] == pytest.approx(0.001)
    assert "cudaLaunchKernel" in rows
