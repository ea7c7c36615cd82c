"""The architecture `seda`: a service's steps as stages, between those of the network.

    accept -> read -> [a stage for every step of the service] -> write

A request enters at the stage of the step that its session chose.  The handler
of a step's stage runs that one step on every request of its batch; what the
step returns decides to which stage the request goes next, and a request whose
reply is ready sends its connection to the write stage.

A full queue makes the stages before it wait, back to the read stage, which
then reads no more: TCP's window closes, and the clients wait where it costs
the server nothing.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from servers.architecture import Architecture
from servers.counters import Counters
from servers.listener import LINGER_S, ServerOptions
from servers.options import UsageError, option
from servers.seda.sockets import Arrivals, Network, Readiness, StagedConnection
from servers.seda.stage import BATCH, Stage
from servers.service import Request, Service, Step

BLOCKING_THREADS = 40
"""Threads of a stage whose step blocks; the paper's section 3.2 gives its disk as many."""

MOST_THREADS = 10_000
"""Of one stage; the purpose is that a slip of the finger does not take the machine."""

DRAIN_TICK_S = 0.01
"""How often a server that is stopping looks for connections that came to rest."""


@dataclass(frozen=True)
class SedaOptions:
    """Sizes of the stages."""

    queue_capacity: int = option(4096, "events that may wait for one stage", minimum=1)
    batch: int = option(BATCH, "events that one thread takes from its queue at a time", minimum=1)
    threads: str = option(
        "", "threads of stages, such as read=2,write=2 (default: one each, "
        f"{BLOCKING_THREADS} where the step blocks)", metavar="STAGE=N,...",
    )  # fmt: skip


class Seda(Architecture):
    """Builds the graph, watches over it, takes it down in order."""

    name = "seda"
    summary = "accept, read, every step and write are stages: queue, handler, thread pool"
    Options = SedaOptions
    options: SedaOptions

    def __init__(
        self, service: Service, listener: socket.socket, server: ServerOptions, options: SedaOptions
    ) -> None:
        super().__init__(service, listener, server, options)
        self._local = threading.local()
        self._build()

    def run(self) -> None:
        try:
            for stage in reversed(self.stages):  # consumers first
                stage.start()
        except RuntimeError:
            raise UsageError(
                f"the system gives no thread for the stage {stage.name!r}; "
                "raise the limit on processes (ulimit -u) or ask for fewer with --threads"
            ) from None
        self._watch()
        self._drain()

    def _build(self) -> None:
        """The stages, in the order in which a request meets them."""
        steps = self.service.steps()
        blocking = [name for name, step in steps.items() if getattr(step, "blocking", False)]
        names = ["accept", "read", *steps, "write"]
        threads = dict.fromkeys(names, 1) | dict.fromkeys(blocking, BLOCKING_THREADS)
        threads |= parse_threads(self.options.threads, names)

        def queued(name: str, handler: Callable[[Sequence[Any]], None]) -> Stage[Any]:
            stage, self._put[name] = Stage.queued(
                name, handler, capacity=self.options.queue_capacity, **size(name)
            )
            return stage

        def size(name: str) -> dict[str, int]:
            return {"threads": threads[name], "batch": self.options.batch}

        self._put: dict[str, Callable[[Sequence[Any]], object]] = {}
        self.readiness = Readiness(readers=threads["read"])
        self.network = network = Network(
            self.readiness, self.service.session, self._counters, self.max_connections,
            self.server.max_unsent, self.server.receive_bytes,
        )  # fmt: skip
        arrivals = Arrivals(self.listener, self._accept_failed)
        self.stages: list[Stage[Any]] = [
            Stage("accept", network.accept, arrivals, **size("accept")),
            Stage("read", network.read, self.readiness, **size("read")),
            *(queued(name, self._run_step(step)) for name, step in steps.items()),
            queued("write", network.write),
        ]
        self._enter = {step: self._put[name] for name, step in steps.items()}
        network.enter = self._dispatch
        network.reply = self._put["write"]

    def _run_step(self, step: Step) -> Callable[[Sequence[Request]], None]:
        """The handler of a step's stage."""

        def handle(requests: Sequence[Request]) -> None:
            onward: list[Request] = []
            finished: list[StagedConnection] = []
            for request in requests:
                try:
                    following = step(request)
                except Exception as error:  # costs this request only
                    self.fail(request, error, self._counters())
                    following = None
                if following is None:
                    request.done = True
                    finished.append(request.connection)
                else:
                    request.step = following
                    onward.append(request)
            if finished:
                self._put["write"](finished)
            if onward:
                self._dispatch(onward)

        return handle

    def _dispatch(self, requests: Sequence[Request]) -> None:
        """Send each request to the stage of its next step, together with its likes."""
        batches: dict[Step, list[Request]] = {}
        for request in requests:
            batches.setdefault(request.step, []).append(request)
        for step, batch in batches.items():
            self._enter[step](batch)

    def _counters(self) -> Counters:
        """The calling thread's own block."""
        try:
            counters: Counters = self._local.counters
        except AttributeError:
            counters = self._local.counters = self.ledger.lease()
        return counters

    def _accept_failed(self) -> None:
        self._counters().errors["accept"] += 1

    def _watch(self) -> None:
        """The main thread while the stages serve: time-outs, until the signal comes."""
        server = self.server
        tick_s = min(0.25, server.idle_timeout_s / 4, server.send_timeout_s / 4)
        wakeup = select.poll()
        wakeup.register(self.wakeup, select.POLLIN)
        while not wakeup.poll(max(1, int(tick_s * 1e3))):
            self._end_overdue()

    def _end_overdue(self) -> None:
        now_ns = time.monotonic_ns()
        for connection in self._connections():
            # A request inside the stages is the server's time, not the peer's.
            if connection.pending and not connection.outbox:
                connection.active = True
            if error := connection.overdue(now_ns, self.server):
                with connection.lock:
                    self.network.doom(connection, error)

    def _connections(self) -> list[StagedConnection]:
        return list(self.readiness.connections.values())

    def _drain(self) -> None:
        """Stop accepting; let what is in flight come to its end; then the stages, in order."""
        deadline_s = time.monotonic() + self.server.grace_s
        self.network.stopping = True
        self.stages[0].close()
        self.stages[0].join(LINGER_S)
        self.listener.close()
        while self._connections() and time.monotonic() < deadline_s:
            for connection in self._connections():
                self.network.retire(connection)
            self._end_overdue()
            time.sleep(DRAIN_TICK_S)
        for connection in self._connections():
            with connection.lock:
                self.network.doom(connection, "linger" if connection.finished else "aborted")
        deadline_s = time.monotonic() + LINGER_S
        while self._connections() and time.monotonic() < deadline_s:
            time.sleep(DRAIN_TICK_S)
        for stage in self.stages[1:]:
            stage.close()
            stage.join(max(0.0, deadline_s - time.monotonic()))

    def describe_stages(self) -> list[dict[str, Any]]:
        return [stage.describe() for stage in self.stages]


def parse_threads(text: str, names: Sequence[str]) -> dict[str, int]:
    """`read=2,write=2` as a dictionary.  Raises UsageError."""
    threads: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in names:
            raise UsageError(f"--threads: there is no stage {name!r}; there are {', '.join(names)}")
        if not number.isdecimal() or not 1 <= int(number) <= MOST_THREADS:
            raise UsageError(f"--threads: {part!r} is not STAGE=N with N from 1 to {MOST_THREADS}")
        threads[name] = int(number)
    return threads
