"""Who runs the stages makes no difference to what they do."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from servers.options import UsageError
from servers.seda import Application, Dispatch, QueueSpec, StageSpec
from servers.seda.application import Control
from servers.seda.shared_threads import SCHEDULES

DEADLINE_S = 30.0

SHARED: list[dict[str, Any]] = [
    {"runner": "shared", "shared_threads": threads, "schedule": schedule}
    for threads in (1, 3)
    for schedule in SCHEDULES
]
RUNNERS: list[dict[str, Any]] = [{"runner": "pools"}, *SHARED, {"runner": "direct"}]
QUEUED = RUNNERS[:-1]


def named(runner: dict[str, Any]) -> str:
    return "-".join(map(str, runner.values()))


every_runner = pytest.mark.parametrize("runner", RUNNERS, ids=named)
every_queued_runner = pytest.mark.parametrize("runner", QUEUED, ids=named)
"""Under direct calls there are no queues."""


def wait_until(what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline_s, "it never came to be"


class Collected:
    """A handler that keeps what it gets; the last stage of a test."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._lock = threading.Lock()

    def __call__(self, events: Sequence[Any], dispatch: Dispatch) -> None:
        with self._lock:
            self.events.extend(events)

    def __len__(self) -> int:
        return len(self.events)


def branching(end: Collected, queue: QueueSpec, batch: int, threads: int) -> list[StageSpec]:
    """split -> left | right -> join -> end; the right one says everything twice."""

    def split(events: Sequence[int], dispatch: Dispatch) -> None:
        assert not dispatch("left", [event for event in events if event % 3])
        assert not dispatch("right", [event for event in events if not event % 3])

    def left(events: Sequence[int], dispatch: Dispatch) -> None:
        assert not dispatch("join", [(event, "left") for event in events])

    def right(events: Sequence[int], dispatch: Dispatch) -> None:
        assert not dispatch("join", [(event, side) for event in events for side in ("r1", "r2")])

    def join(events: Sequence[tuple[int, str]], dispatch: Dispatch) -> None:
        assert not dispatch("end", events)

    return [
        StageSpec(name, handler, to=to, queue=queue, batch=batch, threads=threads)
        for name, handler, to in (
            ("split", split, ("left", "right")), ("left", left, ("join",)),
            ("right", right, ("join",)), ("join", join, ("end",)), ("end", end, ()),
        )
    ]  # fmt: skip


def expected(events: Sequence[int]) -> Counter[tuple[int, str]]:
    return Counter(
        (event, side) for event in events for side in (("left",) if event % 3 else ("r1", "r2"))
    )


@every_runner
@pytest.mark.parametrize(
    ("capacity", "batch", "threads"), [(4096, 256, 1), (3, 2, 1), (1, 1, 1), (3, 2, 3)]
)
def test_every_event_reaches_the_end_once_through_a_branching_graph(
    runner: dict[str, Any], capacity: int, batch: int, threads: int
) -> None:
    # With the tiny queues: backpressure, at which nobody may wait for himself.
    end = Collected()
    specs = branching(end, QueueSpec(capacity), batch, threads)
    events = range(600)
    with Application(specs, **runner) as application:
        for start in range(0, len(events), 50):
            assert not application.put("split", events[start : start + 50])
    assert Counter(end.events) == expected(events)
    told = {stage["name"]: stage for stage in application.describe()}
    assert [told[name]["events_out"] for name in ("split", "left", "right", "join", "end")] == [
        600, 400, 200, 800, 800,
    ]  # fmt: skip
    for stage in told.values():
        assert stage["faults"] == stage["dropped"] == stage["queue_length"] == 0
        assert stage["events_in"] == stage["events_out"]


@every_queued_runner
def test_several_threads_may_put_events_in(runner: dict[str, Any]) -> None:
    end = Collected()
    specs = branching(end, QueueSpec(5), 2, 1)
    with Application(specs, **runner) as application:
        putters = [
            threading.Thread(target=application.put, args=("split", range(start, start + 300)))
            for start in range(0, 1200, 300)
        ]
        for putter in putters:
            putter.start()
        for putter in putters:
            putter.join(DEADLINE_S)
            assert not putter.is_alive()
    assert Counter(end.events) == expected(range(1200))


@every_runner
def test_an_event_is_handled_while_the_application_runs_and_not_only_at_its_end(
    runner: dict[str, Any],
) -> None:
    end = Collected()
    with Application(branching(end, QueueSpec(), 16, 1), **runner) as application:
        for number in range(20):
            application.put("split", [number])
            wait_until(lambda number=number: end.events and end.events[-1][0] == number)


@pytest.mark.parametrize(
    "runner", [runner for runner in RUNNERS if runner.get("shared_threads", 1) == 1], ids=named
)
def test_one_thread_at_a_time_keeps_the_order(runner: dict[str, Any]) -> None:
    end = Collected()
    specs = [
        StageSpec("first", lambda events, dispatch: dispatch("end", events), to=("end",), batch=7),
        StageSpec("end", end),
    ]
    with Application(specs, **runner) as application:
        for start in range(0, 500, 25):
            application.put("first", range(start, start + 25))
    assert end.events == list(range(500))


@every_runner
def test_a_fault_costs_its_batch_only_and_on_fault_gets_it(runner: dict[str, Any]) -> None:
    end = Collected()
    answered: list[tuple[int, str]] = []

    def moody(events: Sequence[int], dispatch: Dispatch) -> None:
        if 13 in events:
            raise ValueError("not thirteen")
        dispatch("end", events)

    specs = [
        StageSpec(
            "moody", moody, to=("end",), batch=1,
            on_fault=lambda events, error: answered.extend((e, str(error)) for e in events),
        ),
        StageSpec("end", end),
    ]  # fmt: skip
    with Application(specs, **runner) as application:
        for number in range(30):  # one by one: under direct calls a batch is what was put
            application.put("moody", [number])
    assert sorted(end.events) == [*range(13), *range(14, 30)]
    assert answered == [(13, "not thirteen")]
    told = application.describe()[0]
    assert (told["faults"], told["last_fault"]) == (1, "ValueError: not thirteen")
    assert told["events_out"] == 30


@every_runner
def test_a_filter_is_asked_whoever_runs_the_stage(runner: dict[str, Any]) -> None:
    end = Collected()
    specs = [StageSpec("end", end, queue=QueueSpec(4, accepts=lambda event: event % 2), batch=2)]
    with Application(specs, **runner) as application:
        assert list(application.put("end", range(10))) == [0, 2, 4, 6, 8]
    assert sorted(end.events) == [1, 3, 5, 7, 9]
    assert application.describe()[0]["losses"]["filtered"] == 5


@every_queued_runner
def test_leaving_drains_in_stage_order_and_loses_nothing(runner: dict[str, Any]) -> None:
    # The first stage is held until the application is told to end; by then all
    # its events are still before it, and every stage after it has yet to see them.
    let_go = threading.Event()
    end = Collected()

    def held(events: Sequence[int], dispatch: Dispatch) -> None:
        assert let_go.wait(DEADLINE_S)
        dispatch("middle", events)

    specs = [
        StageSpec("held", held, to=("middle",), batch=5),
        StageSpec("middle", lambda events, dispatch: dispatch("end", events), to=("end",), batch=5),
        StageSpec("end", end, batch=5),
    ]
    application = Application(specs, control=Control(False, False), **runner)
    application.start()
    application.put("held", range(200))
    done: list[bool] = []
    drain = threading.Thread(target=lambda: done.append(application.drain(DEADLINE_S)))
    drain.start()
    let_go.set()
    drain.join(DEADLINE_S)
    assert done == [True]
    assert sorted(end.events) == list(range(200))
    assert list(application.put("held", [1])) == [1]  # closed
    assert application.describe()[0]["losses"]["closed"] == 1
    assert application.drain(1)  # twice does no harm


@every_runner
def test_consumers_that_are_declared_first_are_drained_last(runner: dict[str, Any]) -> None:
    let_go = threading.Event()
    end = Collected()

    def held(events: Sequence[int], dispatch: Dispatch) -> None:
        assert let_go.wait(DEADLINE_S)
        assert not dispatch("end", events)

    specs = [StageSpec("end", end), StageSpec("held", held, to=("end",), batch=5)]
    application = Application(specs, **runner)
    application.start()
    putter = threading.Thread(target=application.put, args=("held", range(50)))
    putter.start()
    if runner["runner"] != "direct":
        putter.join(DEADLINE_S)
    else:
        let_go.set()
        putter.join(DEADLINE_S)
    drain = threading.Thread(target=application.drain, args=(DEADLINE_S,))
    drain.start()
    let_go.set()
    drain.join(DEADLINE_S)
    assert sorted(end.events) == list(range(50))
    told = application.describe()
    assert [stage["name"] for stage in told] == ["end", "held"]  # as declared
    assert [stage["faults"] for stage in told] == [0, 0]


@every_queued_runner
def test_what_a_short_drain_leaves_is_counted_and_told(runner: dict[str, Any]) -> None:
    inside, let_go = threading.Semaphore(0), threading.Event()

    def held(events: Sequence[int], dispatch: Dispatch) -> None:
        inside.release()
        assert let_go.wait(DEADLINE_S)

    application = Application([StageSpec("held", held, batch=4)], drain_s=0.05, **runner)
    application.start()
    for _ in range(runner.get("shared_threads", 1)):  # every thread is held
        application.put("held", range(4))
        assert inside.acquire(timeout=DEADLINE_S)
    application.put("held", range(36))
    with pytest.raises(UsageError, match=r"did not finish within 0.05 s.*Events left: 36 in held"):
        application.__exit__(None, None, None)
    told = application.describe()[0]
    assert (told["queue_length"], told["losses"]["left"]) == (0, 36)
    let_go.set()
    assert application.drain(DEADLINE_S)
    told = application.describe()[0]
    assert told["events_in"] == told["events_out"] + told["dropped"]


@every_runner
def test_after_the_drain_nothing_is_handled(runner: dict[str, Any]) -> None:
    end = Collected()
    with Application([StageSpec("end", end)], **runner) as application:
        application.put("end", [1])
    assert list(application.put("end", [2, 3])) == [2, 3]
    assert end.events == [1]
    assert application.describe()[0]["losses"]["closed"] == 2


@every_runner
def test_an_application_that_was_never_started_can_be_drained(runner: dict[str, Any]) -> None:
    application = Application([StageSpec("end", Collected())], **runner)
    assert application.drain(DEADLINE_S)
    assert list(application.put("end", [1])) == [1]


@every_runner
def test_a_handler_that_raises_system_exit_costs_its_batch_and_no_thread(
    runner: dict[str, Any],
) -> None:
    def leave(events: Sequence[int], dispatch: Dispatch) -> None:
        raise SystemExit

    with Application([StageSpec("leave", leave)], **runner) as application:
        for number in (1, 2, 3):
            application.put("leave", [number, number])
            wait_until(lambda number=number: application.describe()[0]["failed"] == 2 * number)
        told = application.describe()[0]
    assert (told["threads"], told["queue_length"]) == (runner.get("shared_threads", 1), 0)


def test_calls_that_nest_too_deep_are_a_fault_of_their_batch() -> None:
    def again(events: Sequence[int], dispatch: Dispatch) -> None:
        dispatch("again", [events[0] + 1])

    specs = [StageSpec("again", again, to=("again",))]
    with Application(specs, runner="direct") as application:
        application.put("again", [0])
        assert application.describe()[0]["last_fault"].startswith("RecursionError")


@every_queued_runner
def test_what_gathers_is_handled_at_the_end_at_the_latest(runner: dict[str, Any]) -> None:
    end = Collected()
    gather = QueueSpec(100, at_least=50, within_s=10 * DEADLINE_S)
    specs = [
        StageSpec("first", lambda events, dispatch: dispatch("gather", events), to=("gather",)),
        StageSpec("gather", lambda events, dispatch: dispatch("end", events), to=("end",),
                  queue=gather, batch=100),
        StageSpec("end", end),
    ]  # fmt: skip
    with Application(specs, **runner) as application:
        for number in range(49):
            application.put("first", [number])
        wait_until(lambda: application.describe()[1]["queue_length"] == 49)
        assert len(end) == 0
        application.put("first", [49])
        wait_until(lambda: len(end) == 50)
        application.put("first", range(50, 60))
    assert sorted(end.events) == list(range(60))


@every_queued_runner
def test_a_stage_that_gathers_keeps_no_other_stage_from_its_turn(runner: dict[str, Any]) -> None:
    end = Collected()
    gather = QueueSpec(100, at_least=50, within_s=10 * DEADLINE_S)
    specs = [
        StageSpec("other", end),
        StageSpec("gather", lambda events, dispatch: None, queue=gather, batch=100),
    ]
    with Application(specs, **runner) as application:
        application.put("gather", [1])
        application.put("other", [2])
        wait_until(lambda: end.events == [2])
        assert application.describe()[1]["queue_length"] == 1


@every_queued_runner
def test_a_drain_that_takes_too_long_says_so(runner: dict[str, Any]) -> None:
    let_go = threading.Event()
    specs = [StageSpec("stuck", lambda events, dispatch: let_go.wait(DEADLINE_S), batch=1)]
    application = Application(specs, **runner)
    application.start()
    application.put("stuck", [1, 2, 3])
    assert not application.drain(0.05)
    let_go.set()
    application.drain(DEADLINE_S)


def test_the_threads_of_a_pool_work_at_the_same_time() -> None:
    # Nobody passes the barrier before three threads are in the handler.
    barrier = threading.Barrier(3, timeout=DEADLINE_S)
    specs = [StageSpec("together", lambda events, dispatch: barrier.wait(), threads=3, batch=1)]
    with Application(specs) as application:
        assert application.describe()[0]["threads"] == 3
        application.put("together", "abc")
    assert application.describe()[0]["faults"] == 0


def test_shared_threads_work_at_the_same_time() -> None:
    barrier = threading.Barrier(3, timeout=DEADLINE_S)
    specs = [StageSpec("together", lambda events, dispatch: barrier.wait(), batch=1)]
    with Application(specs, runner="shared", shared_threads=3) as application:
        for event in "abc":
            application.put("together", [event])
    assert application.describe()[0]["faults"] == 0


def test_a_full_queue_makes_the_stage_before_it_wait() -> None:
    let_go = threading.Event()
    end = Collected()

    def held(events: Sequence[int], dispatch: Dispatch) -> None:
        assert let_go.wait(DEADLINE_S)
        end(events, dispatch)

    specs = [
        StageSpec("first", lambda events, dispatch: dispatch("held", events), to=("held",),
                  queue=QueueSpec(2), batch=1),
        StageSpec("held", held, queue=QueueSpec(2), batch=1),
    ]  # fmt: skip
    with Application(specs) as application:
        putter = threading.Thread(target=application.put, args=("first", range(50)))
        putter.start()
        wait_until(lambda: [s["queue_length"] for s in application.describe()] == [2, 2])
        assert putter.is_alive()
        # Two in each queue, one in each handler; the first's does not return.
        assert application.describe()[0]["events_out"] <= 4
        let_go.set()
        putter.join(DEADLINE_S)
    assert end.events == list(range(50))


def test_direct_calls_need_no_thread_and_no_queue() -> None:
    threads: set[int] = set()
    end = Collected()

    def first(events: Sequence[int], dispatch: Dispatch) -> None:
        threads.add(threading.get_ident())
        dispatch("end", events)
        assert end.events == events  # it was called, and has returned

    specs = [StageSpec("first", first, to=("end",)), StageSpec("end", end)]
    with Application(specs, runner="direct") as application:
        application.put("first", [1, 2])
        assert threads == {threading.get_ident()}
    assert application.describe()[0]["faults"] == 0


def test_the_time_of_a_stage_is_without_that_of_those_it_calls() -> None:
    def busy(events: Sequence[int], dispatch: Dispatch) -> None:
        begin_ns = time.monotonic_ns()
        while time.monotonic_ns() < begin_ns + 20_000_000:
            pass

    specs = [
        StageSpec("first", lambda events, dispatch: dispatch("busy", events), to=("busy",)),
        StageSpec("busy", busy),
    ]
    with Application(specs, runner="direct") as application:
        application.put("first", [1])
    first, second = application.describe()
    assert second["busy_s"] >= 0.02
    assert 0 <= first["busy_s"] < second["busy_s"]


@every_runner
def test_an_application_that_has_ended_leaves_no_descriptor_and_no_thread(
    runner: dict[str, Any],
) -> None:
    def once() -> None:
        with Application(branching(Collected(), QueueSpec(), 16, 1), **runner) as application:
            application.put("split", range(5))

    once()
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()  # noqa: PTH208
    for _ in range(3):
        once()
    assert len(os.listdir("/proc/self/fd")) <= descriptors  # noqa: PTH208
    wait_until(lambda: threading.active_count() == threads)


def test_who_runs_them_is_chosen_among_those_that_there_are() -> None:
    specs = [StageSpec("only", lambda events, dispatch: None)]
    with pytest.raises(UsageError, match="no runner 'fibers'; there are pools, shared, direct"):
        Application(specs, runner="fibers")
    with pytest.raises(UsageError, match="no schedule 'random'; there are downstream"):
        Application(specs, runner="shared", schedule="random")


# Which stage is next


class Waiting:
    """A stage with so many events that have cost so much."""

    def __init__(self, waiting: int, cost_ns: float = 0.0) -> None:
        self.source = self
        self.waiting = waiting
        self.ready = waiting > 0
        self.cost_ns = cost_ns

    def __len__(self) -> int:
        return self.waiting


@pytest.mark.parametrize(
    ("schedule", "last", "waiting", "chosen"),
    [
        ("downstream", 0, (1, 5, 2, 0), 2),
        ("downstream", 2, (1, 0, 0, 0), 0),
        ("round_robin", 0, (1, 5, 2, 0), 1),
        ("round_robin", 2, (1, 5, 2, 0), 0),
        ("round_robin", 1, (0, 5, 0, 0), 1),
        ("longest", 0, (1, 5, 2, 0), 1),
        ("cheapest", 0, (1, 5, 2, 0), 2),
        ("cheapest", 0, (1, 5, 0, 0), 0),
    ],
)
def test_a_schedule_chooses(
    schedule: str, last: int, waiting: tuple[int, ...], chosen: int
) -> None:
    costs = (20.0, 30.0, 10.0, 1.0)
    stages: list[Any] = [Waiting(number, cost) for number, cost in zip(waiting, costs, strict=True)]
    assert SCHEDULES[schedule](stages, last) == chosen


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_chooses_nobody_where_nothing_waits(schedule: str) -> None:
    stages: list[Any] = [Waiting(0), Waiting(0)]
    assert SCHEDULES[schedule](stages, 0) == -1
