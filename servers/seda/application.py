"""An application: a graph of named stages and the runner that runs them.

It is declared as `StageSpec`s; `Application` checks the graph, builds the stages and
passes them to a runner.  Nothing here knows sockets::

    def parse(lines, dispatch):
        dispatch("count", [line.split() for line in lines])

    def count(words, dispatch):
        found.extend(map(len, words))

    with Application([
        StageSpec("parse", parse, to=("count",), queue=QueueSpec(policy="reject")),
        StageSpec("count", count, threads=2),
    ]) as application:
        application.put("parse", ["a line", "and another"])
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from servers.options import UsageError
from servers.seda.controllers import Batching, Controller, ControlThread, PoolSize
from servers.seda.policies import Policy
from servers.seda.queue import EventQueue
from servers.seda.runner import Runner
from servers.seda.runners import RUNNERS, DirectCalls, PoolPerStage
from servers.seda.shared_threads import SharedThreads
from servers.seda.stage import BATCH, Handler, Source, Stage
from servers.shortage import limit_reached

CAPACITY = 4096
"""Default capacity of a stage's queue."""


@dataclass(frozen=True)
class QueueSpec:
    """The arguments of an `EventQueue`, before there is one."""

    capacity: int = CAPACITY
    policy: Policy | str = "block"
    accepts: Callable[[Any], bool] | None = None
    order: Callable[[Any], int] | None = None
    on_drop: Callable[[Sequence[Any]], None] | None = None
    at_least: int = 1
    within_s: float = 0.0

    def make(self) -> EventQueue[Any]:
        return EventQueue(
            self.capacity, self.policy, accepts=self.accepts, order=self.order,
            on_drop=self.on_drop, at_least=self.at_least, within_s=self.within_s,
        )  # fmt: skip


@dataclass(frozen=True)
class StageSpec:
    """One stage, declared."""

    name: str
    handler: Handler[Any]
    to: tuple[str, ...] = ()
    """The stages that the handler dispatches to."""
    queue: QueueSpec = field(default_factory=QueueSpec)
    source: Source[Any] | None = None
    """Where events come from instead of a queue."""
    threads: int = 1
    batch: int = BATCH
    blocking: bool = False
    """The handler may wait; with more threads, more batches can wait at once."""
    max_threads: int | None = None
    """Limit for the pool controller; None: the size of the pool is fixed."""
    on_fault: Callable[[Sequence[Any], Exception], object] | None = None
    """Gets the events of a batch whose handler raised, and the exception."""


@dataclass(frozen=True)
class Control:
    """Which controllers of the stages are enabled."""

    pool_size: bool = True
    batching: bool = True


def check_graph(specs: Sequence[StageSpec]) -> None:
    """Raises UsageError for an invalid graph."""
    names = [spec.name for spec in specs]
    for spec in specs:
        if names.count(spec.name) > 1:
            raise UsageError(f"two stages are called {spec.name!r}; give each a name of its own")
        for target in spec.to:
            if target not in names:
                raise UsageError(
                    f"stage {spec.name!r} sends to {target!r}, which is not a stage; "
                    f"there are {', '.join(names)}"
                )
        if spec.threads < 1:
            raise UsageError(f"stage {spec.name!r} needs at least one thread")
        if spec.batch < 1:
            raise UsageError(f"stage {spec.name!r} needs a batch of at least one event")
        if spec.source is None and spec.queue.capacity < spec.batch:
            raise UsageError(
                f"the queue of stage {spec.name!r} holds {spec.queue.capacity} events, less than "
                f"its batch of {spec.batch}; make it larger or the batch smaller"
            )
        if spec.source is None and spec.batch < spec.queue.at_least <= spec.queue.capacity:
            raise UsageError(
                f"stage {spec.name!r} gathers {spec.queue.at_least} events and handles "
                f"{spec.batch} in a batch; make the batch larger or gather fewer"
            )
    if not specs:
        raise UsageError("an application needs a stage")


def in_order(specs: Sequence[StageSpec]) -> list[str]:
    """The names of the stages in topological order; within a cycle, as declared."""
    left = list(specs)
    names: list[str] = []
    while left:
        fed = {target for spec in left for target in spec.to if target != spec.name}
        following = next((spec for spec in left if spec.name not in fed), left[0])
        left.remove(following)
        names.append(following.name)
    return names


class Application:
    """Running stages.  As a context manager it starts them, and drains them at the end.

    It then raises UsageError if `drain_s` was too short.
    """

    def __init__(
        self,
        specs: Sequence[StageSpec],
        *,
        runner: str = "pools",
        shared_threads: int = 1,
        schedule: str = "downstream",
        control: Control | None = None,
        controllers: Sequence[Controller] = (),
        drain_s: float = 10.0,
    ) -> None:
        check_graph(specs)
        self.specs = tuple(specs)
        self._drain_s = drain_s
        self.stages: list[Stage[Any]] = [
            Stage(
                spec.name, spec.handler,
                spec.queue.make() if spec.source is None else spec.source,
                batch=spec.batch, on_fault=spec.on_fault,
            )
            for spec in specs
        ]  # fmt: skip
        self._by_name = {stage.name: stage for stage in self.stages}
        self.runner = self._make_runner(runner, shared_threads, schedule)
        self.control = ControlThread([*self._stage_controllers(control or Control()), *controllers])

    def _make_runner(self, runner: str, shared_threads: int, schedule: str) -> Runner:
        stages = [self._by_name[name] for name in in_order(self.specs)]
        match runner:
            case "pools":
                return PoolPerStage(stages, {spec.name: spec.threads for spec in self.specs})
            case "shared":
                return SharedThreads(stages, shared_threads, schedule)
            case "direct":
                for spec in self.specs:
                    if spec.source is None and spec.queue.at_least > 1:
                        raise UsageError(
                            f"stage {spec.name!r} gathers events, and direct calls gather none; "
                            "run it with pools or shared threads"
                        )
                return DirectCalls(stages)
        raise UsageError(f"there is no runner {runner!r}; there are {', '.join(RUNNERS)}")

    def _stage_controllers(self, control: Control) -> list[Controller]:
        if not isinstance(self.runner, PoolPerStage):
            return []  # there is no pool to size, and a batch is whatever has arrived
        found: list[Controller] = []
        for spec, stage in zip(self.specs, self.stages, strict=True):
            if control.pool_size and spec.max_threads is not None:
                pool = self.runner.pools[spec.name]
                found.append(
                    PoolSize(stage, pool, threshold=2 * spec.threads, max_threads=spec.max_threads)
                )
            if control.batching and spec.source is None and spec.batch > 1:
                found.append(Batching(stage, min_batch=max(8, spec.queue.at_least)))
        return found

    def put(self, stage: str, events: Sequence[Any]) -> Sequence[Any]:
        """Send events in from outside; return those that were lost."""
        return self.runner.dispatch(stage, events)

    def start(self) -> None:
        """Raises UsageError, with the limit that was reached, if threads cannot be started."""
        try:
            self.runner.start()
            self.control.start()
        except (RuntimeError, MemoryError) as error:
            raise UsageError(
                f"cannot start the threads of the stages: {limit_reached(error)}, or ask for fewer"
            ) from None

    def close(self, stage: str, within_s: float) -> bool:
        """Close one stage and wait for it; False if that took longer than `within_s`."""
        self.runner.by_name[stage].source.close()
        return self.runner.join(stage, time.monotonic() + within_s)

    def drain(self, within_s: float | None = None) -> bool:
        """Close the stages in order, each when those that send to it have finished.

        False if that took longer than `within_s`.  Events that are still queued then are
        lost, and counted as "left"; batches that are being handled go on.
        """
        self.control.stop()
        done = self.runner.drain(
            time.monotonic() + (self._drain_s if within_s is None else within_s)
        )
        queues = [s.source for s in self.stages if isinstance(s.source, EventQueue)]
        return not sum(queue.abandon() for queue in queues) and done

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not self.drain() and error is None:
            left = {s.name: s.source.losses["left"] for s in self.stages
                    if isinstance(s.source, EventQueue) and s.source.losses["left"]}  # fmt: skip
            raise UsageError(
                f"the stages did not finish within {self._drain_s:g} s; increase drain_s. "
                f"Events left: {', '.join(f'{n} in {name}' for name, n in left.items()) or 'none'}"
            )

    def describe(self) -> list[dict[str, Any]]:
        """Every stage, for `/stats`."""
        return [
            {
                **stage.describe(),
                "threads": self.runner.threads(stage),
                "to": list(spec.to),
                "blocking": spec.blocking,
            }
            for spec, stage in zip(self.specs, self.stages, strict=True)
        ]
