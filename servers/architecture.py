"""What every architecture is: something that serves a listener until it is told to stop.

The registry at the end knows those of the project by name; one's own is named
by its file and class (`servers.registry`) and needs no line anywhere.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import traceback
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from servers.counters import Counters, Ledger
from servers.listener import ServerOptions, connection_limit, descriptor_limit
from servers.service import Request, Service, Session

MOST_FAULTS_TOLD = 20
"""Lines on standard error: a service that fails in ever new ways need not fill a disk."""


class Architecture(ABC):
    """Who runs the steps, when, and on which thread.

    `Options` is a frozen dataclass (see `servers.options`) with the
    architecture's own settings.  The constructor checks them and raises
    UsageError before anything is served.
    """

    name: ClassVar[str]
    summary: ClassVar[str] = ""
    Options: ClassVar[type[Any]]

    def __init__(
        self, service: Service, listener: socket.socket, server: ServerOptions, options: Any
    ) -> None:
        self.service = service
        self.listener = listener
        self.server = server
        self.options = options
        self.ledger = Ledger()
        self.max_connections = self.limit_connections()
        self.last_fault: str | None = None
        self._faults_told: set[str] = set()
        self.started_ns = time.monotonic_ns()
        # A signal handler may only write to it; whoever waits polls it.
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def limit_connections(self) -> int:
        """How many connections can be open at once; UsageError if more were asked for."""
        return connection_limit(
            self.server.max_connections, descriptor_limit(),
            "the limit on open files", "raise it (ulimit -n) or ask for fewer",
        )  # fmt: skip

    def prepare(self) -> None:  # noqa: B027  (optional hook)
        """Called once, when the service has started and before the server is announced.

        Not called if it is only described.  Whatever can fail belongs here, and so do
        threads that are there from the start: after the announcement nothing may.
        Raises UsageError if something that was asked for cannot be had; an OSError,
        MemoryError or RuntimeError is told as the limit that was hit (`servers.shortage`).
        """

    @abstractmethod
    def run(self) -> None:
        """Serve; after `stop()`, finish what is in flight within the grace time and return."""

    def stop(self) -> None:
        """Ask `run` to come to an end.  May be called from a signal handler, and twice."""
        os.eventfd_write(self.wakeup, 1)

    def new_session(self, counters: Counters) -> Session | None:
        """The service's session for a new connection; None if it raises, which costs that one."""
        try:
            return self.service.session()
        except Exception as error:
            counters.errors["protocol"] += 1
            self.tell(error)
            return None

    def fail(self, request: Request, error: Exception, counters: Counters) -> None:
        """A step raised: have the service answer; if that fails too, end the connection."""
        counters.errors["handler"] += 1
        self.tell(error)
        try:
            self.service.fail(request, error)
        except Exception as worse:
            self.tell(worse)
            request.reply = ()
            request.last = True

    def tell(self, error: Exception) -> None:
        """Whoever writes a service has to learn what it raised: in `/stats`, and once in print.

        A reply that cannot be sent, text instead of bytes, is such an error too: it ends its
        connection and counts as `handler`.
        """
        self.last_fault = fault = one_line(error)
        if fault not in self._faults_told and len(self._faults_told) < MOST_FAULTS_TOLD:
            self._faults_told.add(fault)
            say(f"the service raised {fault}")

    def describe_stages(self) -> list[dict[str, Any]]:
        """The stages, for `/stats`; empty where there are none."""
        return []

    def stats(self) -> dict[str, Any]:
        """A snapshot of the counters.  Takes no lock of the hot path."""
        before_ns = time.monotonic_ns()
        total = self.ledger.total()
        after_ns = time.monotonic_ns()
        return {
            "architecture": self.name,
            "service": self.service.name,
            "pid": os.getpid(),
            "time_ns": (before_ns + after_ns) // 2,
            "uptime_s": (after_ns - self.started_ns) / 1e9,
            "connections": {
                "now": max(0, total.accepted - total.closed),
                "accepted": total.accepted,
                "refused": total.refused,
            },
            "bytes_in": total.bytes_in,
            "bytes_out": total.bytes_out,
            "requests": total.requests,
            "replies": total.replies,
            "abandoned": total.abandoned,
            "rejected": total.rejected,
            "errors": total.errors,
            "last_fault": self.last_fault,
            "threads": _thread_count(),
            "service_stats": self.service.stats(),
            "stages": self.describe_stages(),
        }


def one_line(error: BaseException) -> str:
    """What was raised and where: "ZeroDivisionError: division by zero (my.py, line 7, in shout)".

    The place is the deepest in the file of the step or session itself, not in what it called.
    """
    what = traceback.format_exception_only(error)[-1].strip()
    called = traceback.extract_tb(error.__traceback__)[1:]  # without the architecture's own line
    if called:
        at = [frame for frame in called if frame.filename == called[0].filename][-1]
        what += f" ({os.path.basename(at.filename)}, line {at.lineno}, in {at.name})"  # noqa: PTH119
    return " ".join(what.split())


def say(line: str) -> None:
    """One line on standard error, from a thread that serves: lost if there is no room for it.

    Who reads standard error may be slow, or gone.  A pipe that is writable takes
    `PIPE_BUF` bytes without waiting.
    """
    try:
        descriptor = sys.stderr.fileno()
        encoded = f"{line}\n".encode("utf-8", "backslashreplace")
        if len(encoded) > select.PIPE_BUF:
            encoded = encoded[: select.PIPE_BUF - 4] + b"...\n"
        room = select.poll()
        room.register(descriptor, select.POLLOUT)
        if any(events & select.POLLOUT for _, events in room.poll(0)):
            os.write(descriptor, encoded)
    except (OSError, ValueError, AttributeError):  # it is closed, or there is none
        pass


def _thread_count() -> int:
    """Threads of this process, as the kernel counts them (field 20 of /proc/self/stat)."""
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123
        return int(file.read().rpartition(b")")[2].split()[17])


ARCHITECTURES: dict[str, str] = {
    "threaded": "servers.threaded:Threaded",
    "eventloop": "servers.eventloop:EventLoop",
    "seda": "servers.seda.server:Seda",
}
"""name -> "module:class"; imported only when asked for."""
