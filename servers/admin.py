"""The admin port of a running server: `GET /stats` (JSON), `GET /metrics` (Prometheus).

One thread on a socket of its own, so that a query shares nothing with the threads that
serve clients, except the interpreter.  It never waits for a single client: a small loop
reads the head of each request, answers and closes; slower clients are disconnected after
`CLIENT_TIMEOUT_S`.

It answers only requests whose `Host` is one of its own names.  Otherwise any web page
could read it through its visitor's browser, by having its own name resolve to this
machine (DNS rebinding); the browser sends that name in `Host`.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence, Set
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

from servers.authority import host_of
from servers.listener import accept, bind
from servers.options import UsageError

Stats = Callable[[], dict[str, Any]]

CLIENT_TIMEOUT_S = 5.0
"""For a client to send its request and take the reply."""

MAX_CLIENTS = 16
"""One more replaces the oldest.  `listener.RESERVED_DESCRIPTORS` relies on this limit."""

MAX_HEAD_BYTES = 16_384

LOOPBACK = ("localhost", "127.0.0.1", "::1")

TICK_S = 0.5
"""How often that is checked while there are clients."""


class Admin:
    """The admin port.  Raises UsageError if it is not available."""

    def __init__(self, host: str, port: int, stats: Stats, names: Sequence[str] = ()) -> None:
        for name in names:
            if _as_asked(name) is None:
                raise UsageError(
                    f"--admin-name {name!r} is not a name or an address; give one without a port"
                )
        self._listener = bind(host, port, backlog=16)
        own = (host, self._listener.getsockname()[0], *names)
        self._names = {_as_asked(name) or name for name in own}
        self.port: int = self._listener.getsockname()[1]
        self._stats = stats
        self._clients: dict[int, _Client] = {}  # the oldest first
        self._epoll = select.epoll()
        self._epoll.register(self._listener.fileno(), select.EPOLLIN)
        self._stopped = False
        self._thread = threading.Thread(target=self._loop, name="admin", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Accept no more clients.  The thread, a daemon, ends with the process."""
        self._stopped = True
        self._listener.close()

    def _loop(self) -> None:
        while not self._stopped:
            for descriptor, _ in self._epoll.poll(TICK_S if self._clients else None):
                client = self._clients.get(descriptor)
                if client is None:
                    self._accept()
                elif not client.proceed(self._stats):
                    self._end(descriptor)
                elif client.unsent:
                    self._epoll.modify(descriptor, select.EPOLLOUT)
            late_s = time.monotonic() - CLIENT_TIMEOUT_S
            for descriptor in [d for d, c in self._clients.items() if c.since_s < late_s]:
                self._end(descriptor)

    def _accept(self) -> None:
        try:
            sock = accept(self._listener)
        except OSError:  # closed, or out of descriptors; go on serving the others
            time.sleep(0.01)
            return
        if sock is None:
            return
        if len(self._clients) >= MAX_CLIENTS:
            self._end(next(iter(self._clients)))
        sock.setblocking(False)
        # If we listen on every address, the client may use the one that it connected to.
        own = sock.getsockname()[0].removeprefix("::ffff:")
        names = self._names | {own}
        if own == "::1" or own.startswith("127."):
            names = names.union(LOOPBACK)
        self._clients[sock.fileno()] = _Client(sock, names)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _end(self, descriptor: int) -> None:
        self._epoll.unregister(descriptor)
        self._clients.pop(descriptor).sock.close()


class _Client:
    """One request and its reply."""

    def __init__(self, sock: socket.socket, names: Set[str]) -> None:
        self.sock = sock
        self._names = names
        self.since_s = time.monotonic()
        self.unsent = memoryview(b"")
        self._head = b""

    def proceed(self, stats: Stats) -> bool:
        """Read or write what is possible now; False when it is finished."""
        try:
            if not self.unsent:
                more = self.sock.recv(MAX_HEAD_BYTES)
                self._head += more
                if b"\r\n\r\n" not in self._head and b"\n\n" not in self._head:
                    return bool(more) and len(self._head) < MAX_HEAD_BYTES
                self.unsent = memoryview(answer(self._head, stats, self._names))
            self.unsent = self.unsent[self.sock.send(self.unsent) :]
            if not self.unsent:
                self.sock.shutdown(socket.SHUT_WR)
            return bool(self.unsent)
        except BlockingIOError:
            return True
        except OSError:  # the client is gone
            return False


def answer(head: bytes, stats: Stats, names: Set[str]) -> bytes:
    """The reply to a request, which must be for one of these names; the connection then ends."""
    method, target = (*head.split(b"\n", 1)[0].split(), b"", b"")[:2]
    kind = "text/plain"
    status, text = _misdirected(head, names)
    if status is HTTPStatus.OK:
        try:
            status, kind, text = _page(method, target.partition(b"?")[0], stats)
        except Exception:  # a bug of ours: report it to whoever runs the server, and survive
            traceback.print_exc(file=sys.stderr)
            status = HTTPStatus.INTERNAL_SERVER_ERROR
    body = text.encode()
    lines = [
        f"HTTP/1.0 {status.value} {status.phrase}", f"Date: {formatdate(usegmt=True)}",
        f"Content-Type: {kind}", f"Content-Length: {len(body)}",
        *(["Allow: GET, HEAD"] if status is HTTPStatus.METHOD_NOT_ALLOWED else []), "", "",
    ]  # fmt: skip
    return "\r\n".join(lines).encode() + (b"" if method == b"HEAD" else body)


def _page(method: bytes, path: bytes, stats: Stats) -> tuple[HTTPStatus, str, str]:
    """Status, content type and text."""
    match method, path:
        case (b"GET" | b"HEAD", b"/stats"):
            return HTTPStatus.OK, "application/json", json.dumps(stats()) + "\n"
        case (b"GET" | b"HEAD", b"/metrics"):
            return HTTPStatus.OK, "text/plain; version=0.0.4", metrics(stats())
        case (b"GET" | b"HEAD", _):
            return HTTPStatus.NOT_FOUND, "text/plain", "try /stats or /metrics\n"
    return HTTPStatus.METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD are allowed\n"


def _misdirected(head: bytes, names: Set[str]) -> tuple[HTTPStatus, str]:
    """Whether a request is meant for this server; if not, the status and a message."""
    first, *lines = head.split(b"\n")
    fields = [line.partition(b":") for line in lines]
    hosts = [value.strip() for name, _, value in fields if name.lower() == b"host"]
    if not hosts and not first.rstrip().endswith(b"HTTP/1.1"):  # not a browser
        return HTTPStatus.OK, ""
    host = host_of(hosts[0]) if len(hosts) == 1 else None
    if host is None:
        return HTTPStatus.BAD_REQUEST, "a request needs one Host field, with a name or an address\n"
    if host in names:
        return HTTPStatus.OK, ""
    remedy = f"start the server with --admin-name {host}, or ask for the address it listens on"
    return (
        HTTPStatus.MISDIRECTED_REQUEST,
        f"this admin port does not answer to the name {host}; {remedy}\n",
    )


def _as_asked(name: str) -> str | None:
    """This name or address as a client's Host has it; None if it is not valid."""
    return host_of(f"[{name}]".encode() if ":" in name else name.encode())


_COUNTERS = {
    "bytes_in": "Bytes received.",
    "bytes_out": "Bytes sent.",
    "requests": "Complete requests received.",
    "replies": "Replies handed to the kernel whole.",
    "abandoned": "Requests whose connection ended before that.",
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
