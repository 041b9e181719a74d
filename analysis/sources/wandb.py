"""Runs at Weights & Biases, copied there by `logger=wandb` (docs/tracking.md), or kept offline by its client.

Runs online are read through wandb's public API; files of its client through its own tool, `wandb leet inspect`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.sources.epochs import Skip, epochs_of
from analysis.sources.rows import one_line, run_frame, run_row
from analysis.sources.runs import EpochReader, RecordsError, Runs, noting
from roadmap.common.records import BrokenRecordError

if TYPE_CHECKING:
    import wandb

PAGE = 100
"""Runs per request."""
READERS = 8
"""Threads that request epochs: they mostly wait for the network."""
_INSPECT = """
import json, sys
from wandb.cli.cli import cli
for line in sys.stdin:
    code = 1
    try:
        code = cli(["leet", "inspect", "--json", json.loads(line)], standalone_mode=False)
    except SystemExit as end:
        code = end.code
    print(json.dumps({"type": "end", "code": code}), flush=True)
"""
"""One process for all files: wandb takes half a second to import, and some hundredths to read one."""


def load_wandb(
    project: str, *, filters: Mapping[str, Any] | None = None, api: wandb.Api | None = None, timeout: int = 60
) -> Runs:
    """Read the runs of a project at W&B, "entity/project", or "project" of the account's default entity.

    The epochs are requested when `Runs.epochs` is first used, with one to three requests per run. Runs that this
    project did not write are in `Runs.skipped`.

    Args:
        filters: W&B's filters, as MongoDB queries: {"group": "ladder"}, {"config.regime": "nano"}.
        api: used instead of `wandb.Api(timeout=timeout)`, for another server or key.
        timeout: Seconds that a request may take.

    Raises:
        RecordsError: if W&B refuses or does not answer, if there is no such project, or no run of this project's in it.
    """
    import wandb

    rows: list[dict[str, Any]] = []
    skipped: list[tuple[str, str]] = []
    skip = noting(skipped)
    handles = {}
    try:
        api = api or wandb.Api(timeout=timeout)
        for run in api.runs(project, filters=dict(filters or {}), per_page=PAGE, lazy=False):
            path = "/".join(run.path)
            try:
                rows.append(run_row(path, run.name or run.id, run.config, run.summary_metrics))
                handles[path] = run
            except BrokenRecordError as error:
                skip(path, str(error))
    except (wandb.Error, ValueError, TypeError) as error:  # TypeError: W&B has no such project
        raise RecordsError(f"cannot read {project} at W&B: {one_line(error) or type(error).__name__}") from None
    if not rows:
        why = f"{len(skipped)} others, the first: {': '.join(skipped[0])}" if skipped else "no run at all"
        raise RecordsError(f"no run that logger=wandb wrote in {project} at W&B ({why})")
    return Runs(run_frame(rows), skipped=skipped, readers=dict.fromkeys(handles, partial(_histories, handles)))


def read_offline(files: Iterable[str], skip: Skip) -> tuple[list[dict[str, Any]], EpochReader]:
    """The rows of the runs in these files, and a reader of their epochs. A run that was resumed has several files."""
    files_of: dict[str, list[str]] = {}
    for file in sorted(files, key=_began):
        files_of.setdefault(os.path.basename(file), []).append(file)
    contents = dict(_inspect([file for attempts in files_of.values() for file in attempts], skip))
    rows, histories = [], {}
    for attempts in files_of.values():
        readable = [contents[file] for file in attempts if file in contents]
        if not readable:
            continue
        path = os.path.dirname(attempts[-1])
        name, config, summary, history = _joined(readable)
        try:
            rows.append(run_row(path, name, config, summary))
            histories[path] = history
        except BrokenRecordError as error:
            skip(path, str(error))
    return rows, partial(_in_memory, histories)


def _histories(
    runs: Mapping[str, wandb.apis.public.Run], paths: list[str], skip: Skip
) -> Iterator[tuple[str, np.ndarray]]:
    import wandb

    def scan(path: str) -> list[dict[str, Any]] | Exception:
        try:
            return list(runs[path].scan_history(use_cache=False))
        except (wandb.Error, ValueError, TypeError) as error:
            return error

    with ThreadPoolExecutor(READERS) as pool:
        for path, rows in zip(paths, pool.map(scan, paths), strict=True):
            if isinstance(rows, Exception):
                skip(path, f"W&B does not give its epochs ({one_line(rows)})")
                continue
            values, complaint = epochs_of(rows)
            if complaint:
                skip(path, complaint)
            if values.size:
                yield path, values


def _in_memory(
    histories: Mapping[str, list[dict[str, Any]]], paths: list[str], skip: Skip
) -> Iterator[tuple[str, np.ndarray]]:
    for path in paths:
        values, _ = epochs_of(histories[path])  # a resumed run may have an epoch in two files
        if values.size:
            yield path, values


def _inspect(files: list[str], skip: Skip) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The records of each file that wandb can read."""
    environment = os.environ | {"WANDB_ERROR_REPORTING": "false", "WANDB_MODE": "offline"}
    with subprocess.Popen(
        [sys.executable, "-c", _INSPECT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
        encoding="utf-8",
    ) as process:
        for file in files:
            records: list[dict[str, Any]] = []
            try:
                process.stdin.write(f"{json.dumps(os.path.abspath(file))}\n")
                process.stdin.flush()
                for line in process.stdout:
                    records.append(json.loads(line))
                    if records[-1]["type"] == "end":
                        break
                end = records.pop()
            except (OSError, ValueError, LookupError):
                end = {"type": "none"}
            if end["type"] != "end":
                skip(file, "cannot run wandb leet inspect, which needs wandb 0.31 or newer")
                return
            if end["code"] or not records:
                skip(file, "not a file of W&B's client")
                continue
            yield file, records
        process.stdin.close()


def _joined(attempts: list[list[dict[str, Any]]]) -> tuple[str, dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """Name, config, summary and history of a run, from the last attempt where they differ. W&B leaves out nulls."""
    name, config, summary = "", dict[str, Any](), dict[str, Any]()
    history: list[dict[str, Any]] = []
    for record in (record for records in attempts for record in records):
        kind = record["type"]
        content = record.get(kind) or {}
        if kind == "run":
            name = content.get("display_name") or content.get("run_id") or name
            config |= (content.get("config") or {}).get("update") or {}
        elif kind == "summary":
            summary |= content.get("update") or {}
        elif kind == "history":
            history.append(content.get("item") or {})
    return name, config, summary, history


def _began(file: str) -> tuple[str, float]:
    """When an attempt at a run began: the time in the path .../offline-run-20260102_030405-ID/run-ID.wandb."""
    stamp = os.path.basename(os.path.dirname(file)).partition("run-")[2]
    return stamp.partition("-")[0], os.path.getmtime(file) if os.path.exists(file) else 0
