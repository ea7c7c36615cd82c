"""The architecture `seda`: a service's steps as stages, between those of the network.

    accept -> read -> [a stage for every step of the service] -> write

A request enters at the stage of the step that its session chose.  The handler
of a step's stage runs that one step on every request of its batch; what the
step returns decides to which stage the request goes next, and a request whose
reply is ready sends its connection to the write stage.

Load conditioning.  A service that can say no (`Service.reject`) has requests
turned away where a queue is full, and at the entry, when the 90th percentile
of the response time exceeds its target.  For one that cannot, a full queue
makes the stages before it wait, back to the read stage, which then reads no
more: TCP's window closes, and the clients wait where it costs us nothing.
"""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servers.architecture import Architecture
from servers.counters import Counters
from servers.listener import DRAIN_TICK_S, LINGER_S, ServerOptions, look_every_s
from servers.options import UsageError, option
from servers.seda.admission import Admission
from servers.seda.application import CAPACITY, Application, Control, QueueSpec, StageSpec
from servers.seda.policies import POLICIES
from servers.seda.runners import RUNNERS, SCHEDULES
from servers.seda.sockets import Arrivals, Network, Readiness, StagedConnection
from servers.seda.stage import BATCH, Dispatch
from servers.seda.trace import REJECTED, Tracer
from servers.service import Request, Service, Session, Step

BLOCKING_THREADS = 8
"""Threads that a stage whose step blocks has at first."""

MOST_BLOCKING_THREADS = 40
"""And at most; the paper's section 3.2 gives its disk as many."""

MOST_THREADS = 10_000
"""Of one stage; the purpose is that a slip of the finger does not take the machine."""

MOST_SHARED_THREADS = 1000
"""Fewer: those that have nothing to do look around 20 times a second (`runners.FOLLOW_S`)."""

DECISIONS = 50
"""The last decisions of the controllers that `/stats` tells."""


@dataclass(frozen=True)
class SedaOptions:
    """Who runs the stages, how large they are, which controllers are on."""

    run: str = option(
        "pools", "who runs the stages: a pool of threads each, a few shared threads, or direct "
        "calls on one thread", choices=RUNNERS,
    )  # fmt: skip
    shared_threads: int = option(
        1, "threads that --run shared has for all stages", minimum=1, maximum=MOST_SHARED_THREADS
    )
    schedule: str = option(
        "downstream", "which stage --run shared runs next", choices=tuple(SCHEDULES)
    )
    threads: str = option(
        "", "threads of stages under --run pools, such as read=2,write=2 (default: one each, "
        f"{BLOCKING_THREADS} where the step blocks)", metavar="STAGE=N,...",
    )  # fmt: skip
    queue_capacity: int = option(CAPACITY, "events that may wait for one stage", minimum=1)
    queue_policy: str = option(
        "auto", "what a full queue does; auto: reject where the service can say no, else block",
        choices=("auto", *POLICIES),
    )  # fmt: skip
    gather: str = option(
        "", "stages that wait until N events have gathered or the first has waited MS milliseconds "
        "(cohort scheduling), such as read_file=8/5", metavar="STAGE=N/MS,...",
    )  # fmt: skip
    batch: int | None = option(
        None, f"events handled in one turn, at most (default: {BATCH}, or what the queue holds); "
        "where a step blocks always one, unless it gathers",
        minimum=1, metavar="N",
    )  # fmt: skip
    pool_controller: bool = option(True, "size the pools of stages that block (SOSP 2001)")
    batch_controller: bool = option(True, "adapt the batches (SOSP 2001)")
    admission_controller: bool = option(
        True, "turn requests away when they take too long (USITS 2003)"
    )
    admission_target_ms: float = option(
        100.0, "90th percentile of the response time that admission control aims at", minimum=0.1
    )
    trace: str = option("", "write the paths of sampled requests to FILE (Chrome trace JSON)",
                        metavar="FILE")  # fmt: skip
    trace_every: int = option(1, "of the sampled requests, follow every N-th", minimum=1)


class Seda(Architecture):
    """Builds the graph, watches over it, takes it down in order."""

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
        self._can_reject = type(self.service).reject is not Service.reject
        steps = self.service.steps()
        self._stage_of = {step: name for name, step in steps.items()}
        names = ["accept", "read", *steps, "write"]
        given = parse_threads(options.threads, names)
        readers = {"pools": given.get("read", 1), "shared": options.shared_threads, "direct": 1}
        self.readiness = Readiness(readers[options.run])
        self.network = network = Network(
            self.readiness, self._new_session, self._counters, self.max_connections,
            self.server.max_unsent, self.server.receive_bytes,
        )  # fmt: skip
        network.enter = self._enter
        network.answered = self._answered
        network.tell = self.tell
        self.admission: Admission | None = None
        if options.admission_controller and self._can_reject:
            self.admission = Admission("read", options.admission_target_ms / 1e3, self._completed)
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
                # In a batch each would wait for those before it, while other threads are idle.
                batch=1 if blocking and at_least == 1 else batch,
                threads=given.get(name, BLOCKING_THREADS if blocking else 1),
                most_threads=MOST_BLOCKING_THREADS if blocking else None,
                on_fault=self._faulted,
            )  # fmt: skip

        self.arrivals = arrivals = Arrivals(self.listener, network.seat, self._accept_failed)
        self.application = Application(
            [
                spec("accept", network.accept, source=arrivals, to=("read",)),
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
        """New requests: a sample is timed, some are turned away, the others enter.

        `begin_ns` is when their batch began to be read, if that is traced.
        """
        # One a batch is timed, and not always the first, which waits the least.
        self._local.turn = turn = getattr(self._local, "turn", 0) + 1
        sample = requests[turn % len(requests)]
        sample.entered_ns = self.readiness.oldest_ns  # the wait in the kernel counts
        if self._tracer and self._tracer.wants():
            sample.trail = [("read", begin_ns, time.monotonic_ns(), len(requests))]
        if self.admission:
            admitted = self.admission.admit(len(requests))
            if admitted < len(requests):
                self._reject(requests[admitted:], dispatch)
                requests = requests[:admitted]
                if requests:  # the sample may be among those that were not
                    requests[turn % admitted].entered_ns = self.readiness.oldest_ns
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
                self._counters().served += len(finished)
                dispatch("write", finished)
            if onward:
                self._dispatch(onward, dispatch)

        return handle

    def _dispatch(self, requests: Sequence[Request], dispatch: Dispatch) -> None:
        """Send each request to the stage of its next step, together with its likes."""
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
        """Answer what is not done: 503, or whatever the service says."""
        for request in requests:
            self.service.reject(request)
            request.entered_ns = 0  # how long a refusal takes is not a response time
            request.done = True
            if request.trail is not None and self._tracer:
                self._tracer.finish(request, REJECTED)
        self._counters().rejected += len(requests)
        dispatch("write", [request.connection for request in requests])

    def _dropped(self, requests: Sequence[Request]) -> None:
        self._reject(requests, self.application.put)

    def _faulted(self, requests: Sequence[Request], error: Exception) -> None:
        """A handler raised outside its steps: answer those of its batch that have no reply."""
        undone = [request for request in requests if not request.done]
        for request in undone:
            self.fail(request, error, self._counters())
            request.done = True
        self.application.put("write", [request.connection for request in undone])

    def _answered(self, sampled: Sequence[Request]) -> None:
        now_ns = time.monotonic_ns()
        if self.admission:
            self.admission.responded([now_ns - request.entered_ns for request in sampled])

    def _counters(self) -> Counters:
        """The calling thread's own block."""
        try:
            counters: Counters = self._local.counters
        except AttributeError:
            counters = self._local.counters = self.ledger.lease()
        return counters

    def _completed(self) -> int:
        """Requests whose steps are done: replies less refusals would count those on their way."""
        return self.ledger.total().served

    def _new_session(self) -> Session | None:
        return self.new_session(self._counters())

    def _accept_failed(self) -> None:
        self._counters().errors["accept"] += 1

    # -- the main thread -------------------------------------------------------------------

    def _watch(self) -> None:
        """While the stages serve: time-outs, until the signal comes."""
        tick_s = look_every_s(self.server)
        wakeup = select.poll()
        wakeup.register(self.wakeup, select.POLLIN)
        while not wakeup.poll(max(1, int(tick_s * 1e3))):
            self._end_overdue()
            self.arrivals.resume()
            if self._tracer:
                self._tracer.write()

    def _end_overdue(self) -> None:
        now_ns = time.monotonic_ns()
        for connection in self._connections():
            # A request inside the stages is the server's time, not the peer's.
            if connection.pending and not connection.outbox:
                connection.active = True
            if error := connection.overdue(now_ns, self.server):
                with connection.lock:
                    self.network.doom(connection, error)
            elif connection.request_overdue(now_ns, self.server):
                self.network.give_up(connection)

    def _connections(self) -> list[StagedConnection]:
        return list(self.readiness.connections.values())

    def _drain(self) -> None:
        """Stop accepting; let what is in flight come to its end; then the stages, in order."""
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
            with connection.lock:
                self.network.doom(connection, "linger" if connection.finished else "aborted")
        deadline_s = time.monotonic() + LINGER_S
        while self._connections() and time.monotonic() < deadline_s:
            time.sleep(DRAIN_TICK_S)
        self.application.drain(max(0.1, deadline_s - time.monotonic()))

    def stats(self) -> dict[str, Any]:
        found = super().stats()
        found["runner"] = self.options.run
        found["decisions"] = self.application.control.decisions(DECISIONS)
        if self.admission:
            found["admission"] = {
                "target_ms": self.options.admission_target_ms,
                "limit_per_s": self.admission.limit,
                "p90_ms": self.admission.p90_ms,
            }
        return found

    def describe_stages(self) -> list[dict[str, Any]]:
        return self.application.describe()


def step_edges(service: Service) -> dict[str, tuple[str, ...]]:
    """Which stages each step can send to, and `read`: what a step says, or its code names.

    Each can send to `write`: the replies that it makes, those of requests whose
    step raised, and those that were turned away where the next queue was full.
    So can `read`: what was turned away at the entry, and connections that take
    the rest of a reply now.
    """
    names = service.step_names()
    edges: dict[str, tuple[str, ...]] = {}
    for name in names:
        function = getattr(service, name).__func__
        said = function.to or [n for n in names if n in function.__code__.co_names and n != name]
        edges[name] = (*said, "write")
    entries = [getattr(entry, "__name__", "") for entry in service.entries]
    edges["read"] = (*(name for name in names if name in entries), "write")
    return edges


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


def parse_gather(text: str, names: Sequence[str]) -> dict[str, tuple[int, float]]:
    """`read_file=8/5` as events and seconds by stage.  Raises UsageError."""
    found: dict[str, tuple[int, float]] = {}
    for part in filter(None, text.split(",")):
        name, _, amount = part.partition("=")
        events, _, within_ms = amount.partition("/")
        if name not in names:
            raise UsageError(f"--gather: there is no step {name!r}; there are {', '.join(names)}")
        if not (events.isdecimal() and within_ms.isdecimal() and int(events) and int(within_ms)):
            raise UsageError(
                f"--gather: {part!r} is not STAGE=N/MS, N events or MS milliseconds, both over 0"
            )
        found[name] = int(events), int(within_ms) / 1e3
    return found
