"""What every architecture is: something that serves a listener until it is told to stop.

Here is what all of them share: the loop over the steps of a request and what happens
when one raises, the session of a new connection, and the snapshot for `/stats`.  A new
architecture implements `run`, and calls these:

- `self.ledger.lease()`: one block of counters per thread;
- `servers.acceptor`: new connections, the limit on them, failures of accept();
- `self.new_session(sock, counters)`, `self.run_steps(request, counters)`;
- `servers.connection` (nonblocking sockets) or `servers.conversation` (blocking ones).

The registry at the end knows the project's own architectures by name; any other is named
by its file and class (`servers.registry`) and needs no registration.
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

from servers.acceptor import refuse
from servers.counters import Counters, Ledger
from servers.listener import ServerOptions, connection_limit, descriptor_limit
from servers.service import Request, Service, Session

MAX_FAULTS_PRINTED = 20
"""Lines on standard error: a service that keeps failing in new ways must not fill a disk."""


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
        self._faults_printed: set[str] = set()
        self.started_ns = time.monotonic_ns()
        # `stop` writes to it, which is all that a signal handler may do; `run` polls it.
        self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def limit_connections(self) -> int:
        """How many connections can be open at once; UsageError if more were asked for."""
        return connection_limit(
            self.server.max_connections, descriptor_limit(),
            "the limit on open files", "raise it (ulimit -n) or ask for fewer",
        )  # fmt: skip

    def prepare(self) -> None:  # noqa: B027  (optional hook)
        """Called once, after the service has started and before the server is announced.

        Not called by `--describe`.  Whatever can fail belongs here, including threads that
        exist from the start: after the announcement nothing may fail.  Raises UsageError if
        something that was asked for is not available; an OSError, MemoryError or
        RuntimeError is reported as the limit that was reached (`servers.shortage`).
        """

    @abstractmethod
    def run(self) -> None:
        """Serve; after `stop()`, finish requests in flight within the grace period and return."""

    def stop(self) -> None:
        """Ask `run` to return.  May be called from a signal handler, and more than once."""
        os.eventfd_write(self.wakeup, 1)

    def new_session(self, sock: socket.socket, counters: Counters) -> Session | None:
        """The service's session for a new connection; None if it raised: then `sock` is refused."""
        try:
            return self.service.session()
        except Exception as error:
            counters.errors["protocol"] += 1
            self.report_fault(error)
            refuse(sock, counters)
            return None

    def run_steps(self, request: Request, counters: Counters) -> None:
        """Run the steps of a request on this thread, one after another, until it has a reply."""
        step = request.step
        try:
            while step is not None:
                step = step(request)
        except Exception as error:  # costs this request only
            self.fail(request, error, counters)

    def fail(self, request: Request, error: Exception, counters: Counters) -> None:
        """A step raised: have the service answer; if that fails too, end the connection."""
        counters.errors["handler"] += 1
        self.report_fault(error)
        try:
            self.service.fail(request, error)
        except Exception as worse:
            self.report_fault(worse)
            request.reply = ()
            request.last = True

    def report_fault(self, error: Exception) -> None:
        """Report what a service raised to its author: in `/stats`, and once on standard error.

        A reply that cannot be sent because it is not bytes is such a fault, too: it ends
        its connection and counts as `handler`.
        """
        self.last_fault = fault = describe_fault(error)
        if fault not in self._faults_printed and len(self._faults_printed) < MAX_FAULTS_PRINTED:
            self._faults_printed.add(fault)
            print_error(f"the service raised {fault}")

    def describe_stages(self) -> list[dict[str, Any]]:
        """The stages, for `/stats`; empty for an architecture that has none."""
        return []

    def stats(self) -> dict[str, Any]:
        """A snapshot of the counters; takes no lock that a request needs."""
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


def describe_fault(error: BaseException) -> str:
    """What was raised and where: "ZeroDivisionError: division by zero (my.py, line 7, in shout)".

    The location is the innermost one in the file of the step or session itself, not in
    what it called.
    """
    what = traceback.format_exception_only(error)[-1].strip()
    called = traceback.extract_tb(error.__traceback__)[1:]  # without the architecture's own frame
    if called:
        at = [frame for frame in called if frame.filename == called[0].filename][-1]
        what += f" ({os.path.basename(at.filename)}, line {at.lineno}, in {at.name})"  # noqa: PTH119
    return " ".join(what.split())


def print_error(line: str) -> None:
    """Write one line to standard error without ever blocking; it is dropped if there is no room.

    Whoever reads standard error may be slow, or gone.  A writable pipe takes `PIPE_BUF`
    bytes without blocking.
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
    except (OSError, ValueError, AttributeError):  # it is closed, or does not exist
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
"""name -> "module:class"; imported only when needed."""
