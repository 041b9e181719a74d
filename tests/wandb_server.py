"""The part of a W&B server that a run needs: it keeps what it receives, and it can fail in several ways.

It answers the GraphQL queries of W&B's own client, for which there is neither documentation nor a server to test with.
Where no server is needed, tests use offline mode and `wandb leet inspect`, which can neither resume a run nor hang.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class ReceivedRun:
    """A run as the server has it."""

    params: dict[str, Any] = field(default_factory=dict)
    """Of the first UpsertBucket: groupName, displayName, tags, ..."""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    """Exit codes, one for each time that it ended."""


class Server(ThreadingHTTPServer):
    """`fault` is "" for a server that works; "hangs" for one that accepts connections and never answers; "500" for one
    that always fails; "hangs later" for one that no longer answers after a run has begun."""

    daemon_threads = True

    def __init__(self, fault: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.fault, self.stopped = fault, threading.Event()
        self.requests: list[str] = []
        self.runs: dict[str, ReceivedRun] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """Ignore clients that close their connection."""

    def close(self) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/graphql":
            name = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])[1]
            self.requests.append(name)
            return {"data": getattr(self, name, lambda _: {})(body.get("variables") or {})}
        if path.endswith("/file_stream"):
            self.take(self.runs[path.split("/")[-2]], body)
        return {}

    def Viewer(self, _: dict[str, Any]) -> dict[str, Any]:  # noqa: N802 - these are W&B's names
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def RunResumeStatus(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.get(args["name"])
        bucket = run and {
            "id": "1",
            "name": args["name"],
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "1", "name": args["project"], "entity": {"id": "1", "name": "me"}, "bucket": bucket}}

    def UpsertBucket(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.setdefault(args["name"], ReceivedRun(args))
        run.config = json.loads(args["config"])
        project = {"id": "1", "name": args["project"], "entity": {"id": "1", "name": "me"}}
        fields = {
            "id": "1",
            "name": args["name"],
            "displayName": run.params["displayName"],
            "config": args["config"],
        }
        bucket = fields | {"project": project, "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def CreateRunFiles(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in args["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    # The queries of wandb's public API, which reads runs.

    GetDefaultEntity = Viewer

    def Runs(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        """A page of those that satisfy filters such as {"group": "ladder"}."""
        if args["project"] not in {run.params["project"] for run in self.runs.values()}:
            return {"project": None}
        wanted = {
            f"{name}Name" if name == "group" else name: value for name, value in json.loads(args["filters"]).items()
        }
        names = [name for name, run in self.runs.items() if wanted.items() <= run.params.items()]
        first = int(args.get("cursor") or 0)
        page = names[first : first + args["perPage"]]
        edges = [{"node": self.read(name), "cursor": str(index)} for index, name in enumerate(page, first + 1)]
        more = {"endCursor": str(first + len(page)), "hasNextPage": first + len(page) < len(names)}
        runs = {"edges": edges, "pageInfo": more}
        return {"project": {"internalId": "1", "runCount": len(names), "readOnly": False, "runs": runs}}

    def read(self, name: str) -> dict[str, Any]:
        run = self.runs[name]
        texts = {"config": json.dumps(run.config), "summaryMetrics": json.dumps(strict(run.summary))}
        return {
            "id": name,
            "name": name,
            "displayName": run.params["displayName"],
            "projectId": "1",
            "state": "finished" if run.exits else "running",
            "historyLineCount": len(run.history),
            "user": {"name": "me", "username": "me"},
            "systemMetrics": "{}",
            **texts,
        }

    def RunHistoryKeys(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        steps = [row["_step"] for row in self.runs[args["name"]].history]
        return {"project": {"run": {"historyKeys": {"lastStep": max(steps, default=-1), "keys": {}}}}}

    def RunParquetHistory(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        live = strict(self.runs[args["runName"]].history)
        return {"project": {"run": {"parquetHistory": {"parquetUrls": [], "liveData": live}}}}

    def HistoryPage(self, args: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        rows = strict(self.runs[args["run"]].history)
        page = [json.dumps(row) for row in rows if args["minStep"] <= row["_step"] < args["maxStep"]]
        return {"project": {"run": {"history": page}}}

    def take(self, run: ReceivedRun, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                run.history[part["offset"] :] = lines
            if name == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exits.append(sent["exitcode"])


def strict(value: Any) -> Any:
    """Numbers that JSON lacks as text, as W&B returns them."""
    if isinstance(value, dict):
        return {name: strict(item) for name, item in value.items()}
    if isinstance(value, list):
        return [strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.fault == "hangs" or (self.server.fault == "hangs later" and "file_stream" in self.path):
            self.server.requests.append("unanswered")
            self.server.stopped.wait()
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        content = json.loads(body) if body.startswith(b"{") else {}
        text = json.dumps({} if self.server.fault == "500" else self.server.answer(self.path, content)).encode()
        self.send_response(500 if self.server.fault == "500" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None: ...
