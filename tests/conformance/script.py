"""Services for tests: `script`, and `faulty`, which is `web` with two doors more.

`script`: a client says in each line how its request is to be served.

    echo TEXT      one step
    hop N TEXT     N steps, one after the other
    sleep MS TEXT  a step that blocks for so many milliseconds
    many N SIZE    a reply of N buffers of SIZE bytes
    raise          a step raises, and the service has nothing to say about it
    sorry TEXT     a step raises, and the service answers
    worse          a step raises, and then so does `Service.fail`
    words TEXT     a reply that is text, which no socket takes
    bare TEXT      a reply that is bytes, not buffers
    last TEXT      the connection ends with this reply
    garble         the session raises
    broken N       the next N connections get no session: the service raises

`faulty`: a step raises for `/raise`; a file whose path begins with `/vanishing` is
removed when the page cache has missed it, before the disk is read.

`python -m tests.conformance.script` is `python -m servers` with these services.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from servers.__main__ import run
from servers.service import Request, Service, Session, Step, step
from servers.services import SERVICES
from servers.services.web import Web, WebOptions
from servers.services.web_session import WebRequest


class Line(Request):
    __slots__ = ("hops", "text", "verb")

    def __init__(self, entry: Step, line: str) -> None:
        super().__init__(entry)
        self.verb, _, self.text = line.partition(" ")
        self.hops = 0


class Lines(Session):
    def __init__(self, first: Step) -> None:
        self._first = first
        self._rest = b""
        self._inside = False

    def receive(self, data: memoryview) -> Sequence[Line]:
        assert not self._inside, "two threads in one session"
        self._inside = True
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        requests = [Line(self._first, line.decode()) for line in lines]
        if any(request.verb == "garble" for request in requests):
            raise ValueError("not a line of mine")
        self._inside = False
        return requests

    @property
    def idle(self) -> bool:
        return not self._rest


@dataclass(frozen=True)
class ScriptOptions:
    """None."""


class Script(Service):
    name = "script"
    summary = "does what each line says"
    Options = ScriptOptions

    @property
    def first(self) -> Step:
        return self.begin

    broken = 0

    def session(self) -> Session:
        if self.broken:
            self.broken -= 1
            raise LookupError("no session")
        return Lines(self.begin)

    @step
    def begin(self, request: Line) -> Step | None:
        if request.verb == "sleep":
            return self.sleep
        if request.verb == "hop":
            hops, _, request.text = request.text.partition(" ")
            request.hops = int(hops)
            return self.hop
        if request.verb == "many":
            number, size = map(int, request.text.split())
            request.reply = tuple(bytes([65 + n % 26]) * size for n in range(number))
            return None
        if request.verb in ("raise", "sorry", "worse"):
            raise LookupError(f"{request.verb} {request.text}")
        if request.verb == "broken":
            self.broken = int(request.text)
        if request.verb == "words":
            request.reply = (request.text,)  # type: ignore[assignment]
            return None
        if request.verb == "bare":
            request.reply = request.text.encode()  # type: ignore[assignment]
            return None
        request.last = request.verb == "last"
        return self.answer

    @step(blocking=True)
    def sleep(self, request: Line) -> Step | None:
        ms, _, request.text = request.text.partition(" ")
        time.sleep(int(ms) / 1e3)  # this is what is served, not a wait for something
        return self.answer

    @step
    def hop(self, request: Line) -> Step | None:
        request.hops -= 1
        return self.hop if request.hops > 0 else self.answer

    @step
    def answer(self, request: Line) -> Step | None:
        request.reply = (request.text.encode(), b"\n")
        return None

    def fail(self, request: Line, error: Exception) -> None:
        if request.verb == "worse":
            raise error
        if request.verb == "sorry":
            request.reply = (b"sorry ", request.text.encode(), b"\n")
        else:
            super().fail(request, error)


class FaultyWeb(Web):
    name = "faulty"

    def __init__(self, options: WebOptions) -> None:
        super().__init__(options)
        self._routes["/raise"] = (self.raises, None)

    @step(to=("read_file", "respond"))
    def lookup(self, request: WebRequest) -> Step | None:
        following = super().lookup(request)
        if request.path.startswith("/vanishing"):
            Path(self.options.docroot + request.path).unlink()
        return following

    @step
    def raises(self, request: WebRequest) -> Step | None:
        raise LookupError("on purpose")


if __name__ == "__main__":
    SERVICES["faulty"] = "tests.conformance.script:FaultyWeb"
    SERVICES["script"] = "tests.conformance.script:Script"
    run()
