"""The architecture `seda`: a service's steps as stages, between those of the network.

    accept -> read -> [a stage for every step of the service] -> write

Every stage has an explicit queue and threads of its own (or shares some, see
`servers.seda.runners`).  A thread of the read stage turns bytes into requests; each
enters at the stage of the step that its session chose.  The handler of a step's stage
runs that one step on every request of its batch; what the step returns decides to which
stage the request goes next, and when the reply is ready, the connection goes to the
write stage.

Load conditioning.  If the service can refuse a request (`Service.reject`), requests are
rejected where a queue is full, and at the entry when the 90th percentile of the response
time exceeds its target.  If it cannot, a full queue makes the stages before it wait, back
to the read stage, which then stops reading: TCP's window closes, and the clients wait
where it costs us nothing.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from servers.architecture import Architecture
from servers.counters import Counters
from servers.listener import DRAIN_TICK_S, LINGER_S, ServerOptions, sweep_interval_s
from servers.seda.admission import Admission
from servers.seda.application import Application, Control, QueueSpec, StageSpec
from servers.seda.connections import StagedConnection
from servers.seda.kernel_queues import Backlog, Readiness
from servers.seda.network import Network
from servers.seda.sample import Sample
from servers.seda.settings import (
    BLOCKING_THREADS,
    MAX_BLOCKING_THREADS,
    SedaOptions,
    parse_gather,
    parse_threads,
)
from servers.seda.stage import BATCH, Dispatch
from servers.seda.trace import REJECTED, Tracer
from servers.service import Request, Service, Step

DECISIONS_REPORTED = 50
"""`/stats` has the last so many decisions of the controllers."""


class Seda(Architecture):
    """Builds the graph, sweeps its connections, shuts it down in order."""

    name = "seda"
    summary = "accept, read, every step and write are stages: queue, handler, thread pool"
    Options = SedaOptions
    options: SedaOptions

    def __init__(
        self, service: Service, listener: socket.socket, server: ServerOptions, options: Any
    ) -> None:
        super().__init__(service, listener, server, options)
        self._build()

    def _build(self) -> None:
        """Make the application; nothing runs yet."""
        options = self.options
        self._local = threading.local()
        self._tracer: Tracer | None = None
        self._completed: list[_Completed] = []
        self._can_reject = type(self.service).reject is not Service.reject
        steps = self.service.steps()
        self._stage_of = {step: name for name, step in steps.items()}
        names = ["accept", "read", *steps, "write"]
        given = parse_threads(options.threads, names)
        readers = {"pools": given.get("read", 1), "shared": options.shared_threads, "direct": 1}
        self.readiness = Readiness(readers[options.run])
        self.network = network = Network(
            self.readiness, self.new_session, self._counters, self.max_connections,
            self.server.max_unsent, self.server.receive_bytes,
        )  # fmt: skip
        network.enter = self._enter
        network.on_answered = self._on_answered
        network.report_fault = self.report_fault
        self.admission: Admission | None = None
        if options.admission_controller and self._can_reject:
            self.admission = Admission(
                "read", options.admission_target_ms / 1e3, self._count_completed
            )
        policy = options.queue_policy
        if policy == "auto":
            policy = "reject" if self._can_reject else "block"
        batch = options.batch or min(BATCH, options.queue_capacity)
        queue = QueueSpec(options.queue_capacity, policy, on_drop=self._dropped)
        gather = parse_gather(options.gather, list(steps))
        edges = step_edges(self.service)

        def spec(name: str, handler: Any, **more: Any) -> StageSpec:
            more.setdefault("threads", given.get(name, 1))
            more.setdefault("batch", batch)
            return StageSpec(name, handler, **more)

        def step_spec(name: str, step: Step) -> StageSpec:
            blocking = getattr(step, "blocking", False)
            at_least, within_s = gather.get(name, (1, 0.0))
            return spec(
                name, self._run_step(name, step), to=edges[name], blocking=blocking,
                queue=replace(queue, at_least=at_least, within_s=within_s),
                # In a batch, each would wait for those before it while other threads are idle.
                batch=1 if blocking and at_least == 1 else batch,
                threads=given.get(name, BLOCKING_THREADS if blocking else 1),
                max_threads=MAX_BLOCKING_THREADS if blocking else None,
                on_fault=self._faulted,
            )  # fmt: skip

        self.backlog = backlog = Backlog(self.listener, network.reserve, self._counters)
        self.application = Application(
            [
                spec("accept", network.accept, source=backlog, to=("read",)),
                spec("read", network.read, source=self.readiness, to=edges["read"]),
                *(step_spec(name, step) for name, step in steps.items()),
                spec("write", network.write, queue=QueueSpec(options.queue_capacity)),
            ],
            runner=options.run,
            shared_threads=options.shared_threads,
            schedule=options.schedule,
            control=Control(options.pool_controller, options.batch_controller),
            controllers=[self.admission] if self.admission else [],
        )

    def prepare(self) -> None:
        if self.options.trace:
            self._tracer = Tracer(self.options.trace, self.options.trace_every)
            self.network.tracer = self._tracer
        self.application.start()

    def run(self) -> None:
        self._watch()
        self._drain()
        if self._tracer:
            self._tracer.close()

    # -- the handlers around the steps -----------------------------------------------------

    def _enter(self, requests: Sequence[Request], dispatch: Dispatch, begin_ns: int) -> None:
        """New requests: one is sampled, some may be shed, the others enter.

        `begin_ns` is when their batch began to be read, if that is traced.
        """
        # One per batch is timed, and not always the first, which waits the least.
        self._local.turn = turn = getattr(self._local, "turn", 0) + 1
        sampled = requests[turn % len(requests)]
        sampled.context = sample = Sample(self.readiness.oldest_ns)
        if self._tracer and self._tracer.wants():
            sample.trail = [("read", begin_ns, time.monotonic_ns(), len(requests))]
        if self.admission:
            admitted = self.admission.admit(len(requests))
            if admitted < len(requests):
                self._reject(requests[admitted:], dispatch)
                requests = requests[:admitted]
                # The sample may be among those that were shed.
                if requests and (other := requests[turn % admitted]).context is None:
                    other.context = Sample(self.readiness.oldest_ns)
        self._dispatch(requests, dispatch)

    def _run_step(self, name: str, step: Step) -> Callable[[Sequence[Request], Dispatch], None]:
        """The handler of a step's stage."""

        def handle(requests: Sequence[Request], dispatch: Dispatch) -> None:
            onward: list[Request] = []
            finished: list[StagedConnection] = []
            tracer = self._tracer
            begin_ns = time.monotonic_ns() if tracer else 0
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
            if tracer:
                tracer.passed(requests, name, begin_ns)
            if finished:
                self._note_completed(len(finished))
                dispatch("write", finished)
            if onward:
                self._dispatch(onward, dispatch)

        return handle

    def _dispatch(self, requests: Sequence[Request], dispatch: Dispatch) -> None:
        """Send the requests to the stages of their next steps, one batch per stage."""
        if not requests:
            return
        stage_of = self._stage_of
        step = requests[0].step
        for request in requests:
            if request.step is not step:
                break
        else:  # nearly always: all to the same stage
            lost = dispatch(stage_of[step], requests)
            if lost:
                self._reject(lost, dispatch)
            return
        batches: dict[str, list[Request]] = {}
        for request in requests:
            batches.setdefault(stage_of[request.step], []).append(request)
        for name, batch in batches.items():
            if lost := dispatch(name, batch):
                self._reject(lost, dispatch)

    def _reject(self, requests: Sequence[Request], dispatch: Dispatch) -> None:
        """Shed requests: 503, or whatever the service answers."""
        for request in requests:
            self.service.reject(request)
            if request.context is not None:
                if self._tracer:
                    self._tracer.finish(request, REJECTED)
                request.context = None  # how long a rejection takes is not a response time
            request.done = True
        self._counters().rejected += len(requests)
        dispatch("write", [request.connection for request in requests])

    def _dropped(self, requests: Sequence[Request]) -> None:
        self._reject(requests, self.application.put)

    def _faulted(self, requests: Sequence[Request], error: Exception) -> None:
        """A handler raised outside its steps: answer the requests of its batch without a reply."""
        undone = [request for request in requests if not request.done]
        for request in undone:
            self.fail(request, error, self._counters())
            request.done = True
        self.application.put("write", [request.connection for request in undone])

    def _on_answered(self, sampled: Sequence[Request]) -> None:
        now_ns = time.monotonic_ns()
        if self.admission:
            self.admission.responded([now_ns - request.context.entered_ns for request in sampled])

    def _counters(self) -> Counters:
        """The calling thread's own block."""
        try:
            counters: Counters = self._local.counters
        except AttributeError:
            counters = self._local.counters = self.ledger.lease()
        return counters

    def _note_completed(self, requests: int) -> None:
        """The last steps of so many requests are done."""
        try:
            self._local.completed.requests += requests
        except AttributeError:
            completed = self._local.completed = _Completed(requests)
            self._completed.append(completed)

    def _count_completed(self) -> int:
        """For admission control.  Replies minus rejections would count 503s still to be sent."""
        return sum(completed.requests for completed in self._completed)

    # -- the main thread -------------------------------------------------------------------

    def _watch(self) -> None:
        """While the stages serve: time-outs, until `stop` is called."""
        tick_s = sweep_interval_s(self.server)
        wakeup = select.poll()
        wakeup.register(self.wakeup, select.POLLIN)
        while not wakeup.poll(max(1, int(tick_s * 1e3))):
            self._end_overdue()
            self.backlog.resume()
            if self._tracer:
                self._tracer.write()

    def _end_overdue(self) -> None:
        now_ns = time.monotonic_ns()
        for connection in self._connections():
            # While a request is inside the stages, it is we who take time, not the peer.
            if connection.pending and not connection.outbox:
                connection.active = True
            if error := connection.overdue(now_ns, self.server):
                with connection.lock:
                    self.network.mark_for_close(connection, error)
            elif connection.request_overdue(now_ns, self.server):
                self.network.give_up(connection)

    def _connections(self) -> list[StagedConnection]:
        return list(self.readiness.connections.values())

    def _drain(self) -> None:
        """Stop accepting; finish what is in flight; then stop the stages, in order."""
        deadline_s = time.monotonic() + self.server.grace_s
        self.network.stopping = True
        self.application.close("accept", LINGER_S)
        self.listener.close()
        while self._connections() and time.monotonic() < deadline_s:
            for connection in self._connections():
                self.network.retire(connection)
            self._end_overdue()
            time.sleep(DRAIN_TICK_S)
        for connection in self._connections():
            reason = "linger" if connection.finished else "aborted"
            with connection.lock:
                self.network.mark_for_close(connection, reason)
        deadline_s = time.monotonic() + LINGER_S
        while self._connections() and time.monotonic() < deadline_s:
            time.sleep(DRAIN_TICK_S)
        self.application.drain(max(0.1, deadline_s - time.monotonic()))

    def stats(self) -> dict[str, Any]:
        found = super().stats()
        found["runner"] = self.options.run
        found["decisions"] = self.application.control.decisions(DECISIONS_REPORTED)
        if self.admission:
            found["admission"] = {
                "target_ms": self.options.admission_target_ms,
                "limit_per_s": self.admission.limit,
                "p90_ms": self.admission.p90_ms,
            }
        return found

    def describe_stages(self) -> list[dict[str, Any]]:
        return self.application.describe()


class _Completed:
    """What one thread has counted; it alone writes."""

    __slots__ = ("requests",)

    def __init__(self, requests: int) -> None:
        self.requests = requests


def step_edges(service: Service) -> dict[str, tuple[str, ...]]:
    """The stages that each step, and `read`, can send to: as declared, or named in its code.

    Each can send to `write`: replies that it makes, replies to requests whose step raised,
    and to those that were rejected because the next queue was full.  So can `read`:
    requests that were shed at the entry, and connections whose socket takes the rest of
    a reply.
    """
    names = service.step_names()
    edges: dict[str, tuple[str, ...]] = {}
    for name in names:
        function = getattr(service, name).__func__
        code = function.__code__
        targets = function.to or [n for n in names if n in code.co_names and n != name]
        edges[name] = (*targets, "write")
    entries = [getattr(entry, "__name__", "") for entry in service.entries]
    edges["read"] = (*(name for name in names if name in entries), "write")
    return edges
