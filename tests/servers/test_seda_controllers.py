"""Controllers, driven by hand: what they see, what they do about it, what they say of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from servers.seda import (
    Application,
    Batching,
    Controller,
    Dispatch,
    EventQueue,
    PoolSize,
    QueueSpec,
    Stage,
    StageSpec,
)
from servers.seda.application import Control
from servers.seda.runners import PoolPerStage
from servers.seda.thread_pool import ThreadPool

DEADLINE_S = 30.0
SECOND_NS = 1_000_000_000


def wait_until(what: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not what():
        assert time.monotonic() < deadline_s, "it never came to be"


def decided(controller: Controller) -> list[tuple[float, float]]:
    return [(decision.before, decision.after) for decision in controller.decisions]


# The size of a pool


class Gate:
    """A handler that waits until it is let go; knows how many threads are in it."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.inside = threading.Semaphore(0)

    def __call__(self, events: Sequence[Any], dispatch: Dispatch) -> None:
        self.inside.release()
        assert self.let_go.wait(DEADLINE_S)


def pool_of(handler: Any, least: int = 1) -> tuple[Stage[Any], ThreadPool, EventQueue[Any]]:
    queue: EventQueue[Any] = EventQueue(1000)
    stage = Stage("disk", handler, queue, batch=1)
    return stage, ThreadPool(stage, least), queue


def test_a_pool_grows_while_the_queue_is_long_and_no_further_than_it_may() -> None:
    gate = Gate()
    stage, pool, queue = pool_of(gate, least=2)
    controller = PoolSize(stage, pool, threshold=10, max_threads=5, keep_idle_s=DEADLINE_S)
    pool.start()
    queue.put(range(100))
    for _ in range(2):
        assert gate.inside.acquire(timeout=DEADLINE_S)
    for size in (3, 4, 5, 5, 5):
        controller.observe(time.monotonic_ns())
        assert len(pool) == size
    for _ in range(3):  # they do work
        assert gate.inside.acquire(timeout=DEADLINE_S)
    assert decided(controller) == [(2, 3), (3, 4), (4, 5)]
    for decision in controller.decisions:
        assert (decision.controller, decision.stage) == ("pool size", "disk")
        assert decision.quantity == "threads"
        assert "events are waiting, over 10" in decision.reason
        assert 0 < decision.time_ns <= time.monotonic_ns()
    gate.let_go.set()
    queue.close()
    assert pool.join(time.monotonic() + DEADLINE_S)
    assert stage.events_out == 100


def test_a_short_queue_gets_no_more_threads() -> None:
    gate = Gate()
    stage, pool, queue = pool_of(gate)
    controller = PoolSize(stage, pool, threshold=10, max_threads=5)
    pool.start()
    queue.put(range(11))
    assert gate.inside.acquire(timeout=DEADLINE_S)  # ten wait
    controller.observe(time.monotonic_ns())
    assert len(pool) == 1
    assert not controller.decisions
    gate.let_go.set()
    queue.close()
    assert pool.join(time.monotonic() + DEADLINE_S)


def test_threads_that_are_idle_go_down_to_what_there_was_at_first() -> None:
    gate = Gate()
    stage, pool, queue = pool_of(gate, least=2)
    controller = PoolSize(stage, pool, threshold=1, max_threads=6, keep_idle_s=0.02)
    pool.start()
    queue.put(range(50))
    for size in (3, 4, 5, 6):
        controller.observe(time.monotonic_ns())
        assert len(pool) == size
    gate.let_go.set()
    wait_until(lambda: len(pool) == 2)
    wait_until(lambda: len(controller.decisions) == 8)
    assert sorted(decided(controller)[4:], reverse=True) == [(6, 5), (5, 4), (4, 3), (3, 2)]
    assert "idle for 0.02 s" in controller.decisions[-1].reason
    assert stage.events_out == 50
    queue.put(range(5))  # those that stayed are there for the next
    wait_until(lambda: stage.events_out == 55)
    queue.close()
    assert pool.join(time.monotonic() + DEADLINE_S)


def test_a_system_that_gives_no_thread_is_no_reason_to_fall(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stage, pool, queue = pool_of(lambda events, dispatch: None)
    controller = PoolSize(stage, pool, threshold=1, max_threads=5)
    queue.put(range(10))

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", no_thread)
        controller.observe(time.monotonic_ns())
    assert len(pool) == 0
    (decision,) = controller.decisions
    assert (decision.before, decision.after) == (0, 0)
    assert "cannot start a thread" in decision.reason


# The size of a batch


class Hand:
    """A stage, its batching controller, and a hand that moves events and time."""

    def __init__(self, batch: int, least: int = 8) -> None:
        self.queue: EventQueue[int] = EventQueue(100_000)
        self.stage: Stage[int] = Stage("s", lambda events, dispatch: None, self.queue, batch=batch)
        self.controller = Batching(self.stage, min_batch=least)
        self.tally = self.stage.tally()
        self.now_ns = 0
        self.controller.observe(self.now_ns)

    def second(self, events: int) -> int:
        """One second, in which so many events come and are handled; the batch size after it."""
        self.queue.put(range(events))
        while self.stage.turn(self.tally):
            pass
        self.now_ns += SECOND_NS
        self.controller.observe(self.now_ns)
        return self.stage.batch


def test_full_batches_become_smaller_as_long_as_the_rate_holds() -> None:
    hand = Hand(100)
    sizes = [hand.second(10_000) for _ in range(20)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] < 100
    assert sizes[-1] == 8
    assert decided(hand.controller)[0][0] == 100
    for before, after in decided(hand.controller):
        assert 8 <= after < before
    assert "full at 10000/s" in hand.controller.decisions[0].reason


def test_a_rate_that_sinks_makes_batches_larger_again_but_never_over_the_first() -> None:
    hand = Hand(100)
    while hand.second(100_000) > 20:
        pass
    events, sizes = 100_000.0, [hand.stage.batch]
    for _ in range(15):
        events *= 0.85
        sizes.append(hand.second(int(events)))
    assert max(sizes) == 100 > sizes[0]
    reasons = [decision.reason for decision in hand.controller.decisions]
    assert any("the rate fell to" in reason for reason in reasons)
    assert all(size <= 100 for size in sizes)


def test_a_load_that_drops_suddenly_resets_the_batch() -> None:
    hand = Hand(100)
    while hand.second(10_000) > 20:
        pass
    assert hand.second(1000) == 100
    assert "fell suddenly" in hand.controller.decisions[-1].reason
    # And from there it begins anew.
    assert hand.second(1000) < 100


def test_batches_that_are_not_full_are_left_alone() -> None:
    hand = Hand(100)
    for _ in range(5):
        assert hand.second(50) == 100
    assert not hand.controller.decisions


def test_a_batch_that_is_as_small_as_may_be_is_left_alone() -> None:
    hand = Hand(8)
    for _ in range(5):
        assert hand.second(1000) == 8
    assert not hand.controller.decisions
    hand = Hand(4)  # and a limit above the batch does not raise it
    for _ in range(5):
        assert hand.second(1000) == 4


def test_a_clock_that_stands_still_decides_nothing() -> None:
    hand = Hand(100)
    hand.queue.put(range(1000))
    while hand.stage.turn(hand.tally):
        pass
    hand.controller.observe(hand.now_ns)
    assert not hand.controller.decisions


# Together


class Alarm(Controller):
    """A controller of one's own."""

    name = "alarm"
    quantity = "looks"
    period_s = 0.001

    def observe(self, now_ns: int) -> None:
        self.record(0, 1, "it is time")


def test_a_controller_of_ones_own_is_called_until_the_application_ends() -> None:
    alarm = Alarm("only")
    specs = [StageSpec("only", lambda events, dispatch: None)]
    with Application(specs, controllers=[alarm]) as application:
        wait_until(lambda: len(alarm.decisions) > 5)
        told = application.control.decisions(3)
    assert len(told) == 3
    assert [decision["time_ns"] for decision in told] == sorted(d["time_ns"] for d in told)
    assert told[0] | {"time_ns": 0} == {
        "time_ns": 0, "controller": "alarm", "stage": "only", "quantity": "looks",
        "before": 0, "after": 1, "reason": "it is time",
    }  # fmt: skip
    assert not application.control._thread.is_alive()


class Broken(Alarm):
    """A controller that raises."""

    name = "broken"

    def observe(self, now_ns: int) -> None:
        raise ValueError("bad luck")


def test_a_controller_that_raises_is_switched_off_and_the_others_go_on() -> None:
    broken, alarm = Broken("only"), Alarm("only")
    specs = [StageSpec("only", lambda events, dispatch: None)]
    with Application(specs, controllers=[broken, alarm]):
        wait_until(lambda: len(alarm.decisions) > 5)
    (decision,) = broken.decisions
    assert decision.reason == "switched off: ValueError: bad luck"


@pytest.mark.parametrize("pool_size", [True, False])
@pytest.mark.parametrize("batching", [True, False])
def test_each_can_be_switched_off(pool_size: bool, batching: bool) -> None:
    specs = [
        StageSpec("plain", lambda events, dispatch: None),
        StageSpec("blocks", lambda events, dispatch: None, max_threads=4),
    ]
    application = Application(specs, control=Control(pool_size, batching))
    kinds = [(type(c), c.stage) for c in application.control.controllers]
    assert kinds.count((PoolSize, "blocks")) == pool_size
    assert (PoolSize, "plain") not in kinds
    assert kinds.count((Batching, "plain")) == kinds.count((Batching, "blocks")) == batching


def test_in_an_application_a_stage_that_blocks_gets_threads_when_it_needs_them() -> None:
    gate = Gate()
    specs = [
        StageSpec("disk", gate, blocking=True, threads=1, max_threads=3, batch=1,
                  queue=QueueSpec(100)),
    ]  # fmt: skip
    with Application(specs) as application:
        application.put("disk", range(50))
        assert isinstance(application.runner, PoolPerStage)
        wait_until(lambda: application.describe()[0]["threads"] == 3)
        for _ in range(3):
            assert gate.inside.acquire(timeout=DEADLINE_S)
        gate.let_go.set()
    changes = [(d["before"], d["after"]) for d in application.control.decisions(100)]
    assert changes[:2] == [(1, 2), (2, 3)]
