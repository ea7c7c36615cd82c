"""The service `web` without a socket: bytes in, bytes out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from servers.service import Request, Service, Session
from servers.services.web import Web, WebOptions

LOOPS_PER_US = 5.0


def web(**options: Any) -> Web:
    """A service that has started, calibrated to a round number."""
    service = Web(WebOptions(**{"compute_loops_per_us": LOOPS_PER_US} | options))
    service.start()
    return service


def get(path: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    """A request; `headers` as whole lines."""
    lines = [f"{method} {path} HTTP/{version}", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


def run(service: Service, request: Request) -> bytes:
    """Take a request through its steps, as every architecture does."""
    step = request.step
    while step is not None:
        step = step(request)
    return b"".join(request.reply)


@dataclass
class Client:
    """One connection to a service, as an architecture would keep it."""

    service: Service
    session: Session = field(init=False)
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = self.service.session()

    def send(self, *chunks: bytes) -> bytes:
        """The replies to these bytes, the session being given one chunk at a time."""
        replies = []
        for chunk in chunks:
            buffer = bytearray(chunk)
            requests = self.session.receive(memoryview(buffer))
            buffer[:] = bytes(len(buffer))  # valid during the call only
            self.requests.extend(requests)
            replies += [run(self.service, request) for request in requests]
        return b"".join(replies)

    @property
    def closed(self) -> bool:
        """Whether the last reply has been made."""
        return bool(self.requests) and self.requests[-1].last


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes


def replies(stream: bytes, methods: Iterable[str] = ()) -> list[Reply]:
    """All replies in `stream`, which they must fill; `methods` where one is not GET."""
    found: list[Reply] = []
    wanted: Iterator[str] = iter(methods)
    while stream:
        head, separator, stream = stream.partition(b"\r\n\r\n")
        assert separator
        status_line, *lines = head.decode("latin-1").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 (\d{3}) [A-Za-z -]+", status_line)
        assert match, status_line
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        length = int(headers.get("Content-Length", 0))
        if next(wanted, "GET") == "HEAD":
            length = 0
        assert len(stream) >= length
        found.append(Reply(int(match[1]), headers, stream[:length]))
        stream = stream[length:]
    return found


def ask(service: Service, data: bytes, method: str = "GET") -> Reply:
    """The only reply on a new connection."""
    (reply,) = replies(Client(service).send(data), [method])
    return reply
