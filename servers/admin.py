"""What a running server tells about itself: `GET /stats` (JSON), `GET /metrics` (Prometheus).

One thread, one request at a time, on a socket of its own, so that asking
neither uses nor waits for anything that serves clients, but the interpreter.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from servers.listener import bind

Stats = Callable[[], dict[str, Any]]


class Admin:
    """The admin port.  Raises UsageError if it cannot be had."""

    def __init__(self, host: str, port: int, stats: Stats) -> None:
        listener = bind(host, port, backlog=16)
        listener.setblocking(True)
        self.port: int = listener.getsockname()[1]
        self._server = _Server(("", 0), _handler(stats), bind_and_activate=False)
        self._server.socket.close()
        self._server.socket = listener
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="admin", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more questions.  The thread, a daemon, ends with the process."""
        self._server.server_close()


class _Server(HTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away while it was answered is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def _handler(stats: Stats) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # a client that says nothing holds the port no longer

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/stats":
                self._answer(200, "application/json", json.dumps(stats()) + "\n")
            elif path == "/metrics":
                self._answer(200, "text/plain; version=0.0.4", metrics(stats()))
            else:
                self._answer(404, "text/plain", "there are /stats and /metrics\n")

        def _answer(self, status: int, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing: standard error is for errors."""

    return Handler


_COUNTERS = {
    "bytes_in": "Bytes received.",
    "bytes_out": "Bytes sent.",
    "requests": "Complete requests received.",
    "replies": "Replies made.",
    "rejected": "Requests shed.",
}
_STAGE_COUNTERS = ("batches", "events_in", "events_out", "dropped", "faults")


def metrics(stats: dict[str, Any]) -> str:
    """`stats` in the text format of Prometheus, version 0.0.4."""
    return "".join(f"{line}\n" for line in _metric_lines(stats))


def _metric_lines(stats: dict[str, Any]) -> Iterator[str]:
    who = f'architecture="{stats["architecture"]}",service="{stats["service"]}"'
    connections = stats["connections"]
    yield from _metric("uptime_seconds", "gauge", "Time since start.", {who: stats["uptime_s"]})
    yield from _metric("connections", "gauge", "Open connections.", {who: connections["now"]})
    for key in ("accepted", "refused"):
        text = f"Connections {key}."
        yield from _metric(f"connections_{key}_total", "counter", text, {who: connections[key]})
    for key, text in _COUNTERS.items():
        yield from _metric(f"{key}_total", "counter", text, {who: stats[key]})
    kinds = {f'{who},kind="{kind}"': n for kind, n in stats["errors"].items()}
    yield from _metric("errors_total", "counter", "Errors by kind.", kinds)
    yield from _metric("threads", "gauge", "Threads of the process.", {who: stats["threads"]})
    for key in ("queue_length", "queue_capacity", "threads", *_STAGE_COUNTERS):
        counts = key in _STAGE_COUNTERS
        values = {
            f'{who},stage="{stage["name"]}"': stage[key]
            for stage in stats["stages"]
            if stage[key] is not None
        }
        if values:
            name = f"stage_{key}_total" if counts else f"stage_{key}"
            text = f"Stage: {key.replace('_', ' ')}."
            yield from _metric(name, "counter" if counts else "gauge", text, values)


def _metric(name: str, kind: str, text: str, values: dict[str, float]) -> Iterator[str]:
    yield f"# HELP sedabench_{name} {text}"
    yield f"# TYPE sedabench_{name} {kind}"
    for labels, value in values.items():
        yield f"sedabench_{name}{{{labels}}} {value}"
