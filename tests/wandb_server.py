"""As much of a W&B server as a run needs: what it was sent can be looked at, and it can be down in several ways."""

from __future__ import annotations

import gzip
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Kept:
    """A run as the server has it."""

    params: dict[str, Any] = field(default_factory=dict)
    """Of the first UpsertBucket: groupName, displayName, tags, ..."""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    exits: list[int] = field(default_factory=list)
    """Exit codes, one for each time that it ended."""


class Server(ThreadingHTTPServer):
    """`ails` is "" for a server that works; "hangs", that accepts and never answers; "500", that always fails; or
    "hangs later", that stops answering after a run has begun."""

    daemon_threads = True

    def __init__(self, ails: str = "") -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ails, self.stopped = ails, threading.Event()
        self.requests: list[str] = []
        self.runs: dict[str, Kept] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: object) -> None:
        """A client that goes away is none of the server's trouble."""

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

    def RunResumeStatus(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.get(asked["name"])
        bucket = run and {
            "id": "1",
            "name": asked["name"],
            "historyLineCount": len(run.history),
            "eventsLineCount": 0,
            "logLineCount": 0,
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": "[]",
            "summaryMetrics": json.dumps(run.summary),
            "config": json.dumps(run.config),
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {"model": {"id": "1", "name": asked["project"], "entity": {"id": "1", "name": "me"}, "bucket": bucket}}

    def UpsertBucket(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        run = self.runs.setdefault(asked["name"], Kept(asked))
        run.config = json.loads(asked["config"])
        project = {"id": "1", "name": asked["project"], "entity": {"id": "1", "name": "me"}}
        kept = {"id": "1", "name": asked["name"], "displayName": run.params["displayName"], "config": asked["config"]}
        bucket = kept | {"project": project, "historyLineCount": len(run.history)}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def CreateRunFiles(self, asked: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in asked["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    def take(self, run: Kept, sent: dict[str, Any]) -> None:
        for name, part in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in part["content"]]
            if name == "wandb-history.jsonl":
                run.history[part["offset"] :] = lines
            if name == "wandb-summary.json":
                run.summary = lines[-1]
        if sent.get("complete"):
            run.exits.append(sent["exitcode"])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.server.ails == "hangs" or (self.server.ails == "hangs later" and "file_stream" in self.path):
            self.server.requests.append("unanswered")
            self.server.stopped.wait()
            return
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        asked = json.loads(body) if body.startswith(b"{") else {}
        text = json.dumps({} if self.server.ails == "500" else self.server.answer(self.path, asked)).encode()
        self.send_response(500 if self.server.ails == "500" else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    do_GET = do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None: ...
