"""A stage alone: events put in by hand, no socket and no service."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from servers.seda import Stage

DEADLINE_S = 30.0


def test_every_event_is_handled_in_batches_no_larger_than_asked_for() -> None:
    batches: list[list[int]] = []
    stage, put = Stage.queued(
        "square", lambda events: batches.append(list(events)), capacity=100, batch=8
    )
    put(range(50))
    stage.start()
    put(range(50, 200))
    stage.close()
    assert stage.join(DEADLINE_S)
    assert [event for batch in batches for event in batch] == list(range(200))
    assert max(map(len, batches)) <= 8
    assert stage.describe() == {
        "name": "square", "queue_length": 0, "queue_capacity": 100, "threads": 0,
        "batches": len(batches), "events_in": 200, "events_out": 200, "dropped": 0, "faults": 0,
    }  # fmt: skip


def test_stages_join_into_a_pipeline() -> None:
    done: list[int] = []
    last, put_last = Stage.queued("last", done.extend, capacity=3)
    first, put_first = Stage.queued(
        "first", lambda events: put_last([event * 2 for event in events]), capacity=3
    )
    for stage in (last, first):
        stage.start()
    put_first(range(100))
    for stage in (first, last):
        stage.close()
        assert stage.join(DEADLINE_S)
    assert done == list(range(0, 200, 2))


def test_a_fault_costs_its_batch_and_the_stage_lives() -> None:
    handled: list[str] = []

    def handle(events: Sequence[str]) -> None:
        if "bad" in events:
            raise ValueError("bad")
        handled.extend(events)

    stage, put = Stage.queued("moody", handle, capacity=10, batch=1)
    stage.start()
    put(["good", "bad", "better"])
    stage.close()
    assert stage.join(DEADLINE_S)
    assert handled == ["good", "better"]
    told = stage.describe()
    assert (told["faults"], told["events_out"]) == (1, 3)


def test_the_threads_of_a_stage_work_at_the_same_time() -> None:
    # Nobody passes the barrier before three threads are in the handler.
    barrier = threading.Barrier(3, timeout=DEADLINE_S)
    stage, put = Stage.queued(
        "together", lambda events: barrier.wait() and None, capacity=10, batch=1, threads=3
    )
    stage.start()
    assert stage.describe()["threads"] == 3
    put(["one", "two", "three"])
    stage.close()
    assert stage.join(DEADLINE_S)
    assert stage.describe()["faults"] == 0


def test_a_stage_that_does_not_end_in_time_is_said_to() -> None:
    let_go = threading.Event()
    stage, put = Stage.queued("stuck", lambda events: let_go.wait(DEADLINE_S) and None, capacity=1)
    stage.start()
    put(["event"])
    stage.close()
    assert not stage.join(0.01)
    let_go.set()
    assert stage.join(DEADLINE_S)
