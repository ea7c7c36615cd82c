"""A stage alone: events put in by hand, no thread, no socket and no service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from servers.seda import Dispatch, EventQueue, Stage


def queued(handler: Any, capacity: int = 1000, **more: Any) -> Stage[Any]:
    return Stage("alone", handler, EventQueue(capacity), **more)


def put(stage: Stage[Any], events: Sequence[Any]) -> None:
    assert isinstance(stage.source, EventQueue)
    assert stage.source.put(events) == ()


def run(stage: Stage[Any]) -> int:
    """Turn until nothing is left; how many turns had events."""
    tally = stage.tally()
    turns = 0
    while stage.turn(tally):
        turns += 1
    stage.give_back(tally)
    return turns


def test_every_event_is_handled_in_batches_no_larger_than_asked_for() -> None:
    batches: list[list[int]] = []
    stage = queued(lambda events, dispatch: batches.append(list(events)), batch=8)
    put(stage, range(50))
    put(stage, range(50, 200))
    assert run(stage) == len(batches) == 25
    assert [event for batch in batches for event in batch] == list(range(200))
    assert max(map(len, batches)) == 8


def test_a_batch_may_be_changed_at_any_time() -> None:
    sizes: list[int] = []
    stage = queued(lambda events, dispatch: sizes.append(len(events)), batch=100)
    put(stage, range(100))
    tally = stage.tally()
    for stage.batch in (1, 10, 3):
        stage.turn(tally)
    stage.batch = 100
    stage.turn(tally)
    assert sizes == [1, 10, 3, 86]


def test_it_tells_what_it_has_done() -> None:
    stage = queued(lambda events, dispatch: None, capacity=100, batch=10)
    put(stage, range(55))
    run(stage)
    put(stage, range(3))
    told = stage.describe()
    assert told.pop("busy_s") > 0
    assert told.pop("wait_s") > 0
    assert told == {
        "name": "alone", "queue_length": 3, "queue_capacity": 100, "batch": 10, "batches": 6,
        "events_in": 58, "events_out": 55, "dropped": 0,
        "faults": 0, "failed": 0, "last_fault": None,
        "losses": {"block": 0, "filtered": 0, "closed": 0, "left": 0},
    }  # fmt: skip
    assert stage.cost_ns > 0


def test_a_turn_says_how_many_events_it_had_and_when_there_will_be_no_more() -> None:
    stage = queued(lambda events, dispatch: None, batch=2)
    tally = stage.tally()
    assert stage.turn(tally) == 0
    assert stage.turn(tally, 0.001) == 0
    put(stage, "abc")
    assert stage.turn(tally) == 2
    stage.source.close()
    assert stage.turn(tally) == 1
    assert stage.turn(tally) is None
    assert stage.turn(tally) is None


def test_alone_all_that_it_sends_on_comes_back() -> None:
    returned: list[Sequence[int]] = []

    def handle(events: Sequence[int], dispatch: Dispatch) -> None:
        returned.append(dispatch("next", [event * 2 for event in events]))

    stage = queued(handle)
    put(stage, [1, 2, 3])
    run(stage)
    assert returned == [[2, 4, 6]]


def test_what_it_sends_on_can_be_caught() -> None:
    sent: dict[str, list[int]] = {}

    def catch(stage: str, events: Sequence[int]) -> Sequence[int]:
        sent.setdefault(stage, []).extend(events)
        return ()

    def handle(events: Sequence[int], dispatch: Dispatch) -> None:
        dispatch("even", [event for event in events if event % 2 == 0])
        dispatch("odd", [event for event in events if event % 2])

    stage = queued(handle, dispatch=catch)
    put(stage, range(5))
    run(stage)
    assert sent == {"even": [0, 2, 4], "odd": [1, 3]}


def test_a_fault_costs_its_batch_and_the_stage_lives() -> None:
    handled: list[str] = []
    answered: list[tuple[list[str], str]] = []

    def handle(events: Sequence[str], dispatch: Dispatch) -> None:
        if "bad" in events:
            raise ValueError("bad luck")
        handled.extend(events)

    stage = queued(
        handle, batch=2, on_fault=lambda events, error: answered.append((list(events), str(error)))
    )
    put(stage, ["good", "fine", "bad", "unlucky", "better"])
    run(stage)
    assert handled == ["good", "fine", "better"]
    assert answered == [(["bad", "unlucky"], "bad luck")]
    told = stage.describe()
    assert (told["faults"], told["failed"], told["events_out"]) == (1, 2, 5)
    assert told["last_fault"] == "ValueError: bad luck"


def test_who_answers_for_a_fault_may_fail_as_well() -> None:
    def fail(*_: object) -> None:
        raise LookupError("again")

    stage = queued(fail, batch=1, on_fault=fail)
    put(stage, "ab")
    assert run(stage) == 2
    assert stage.describe()["faults"] >= 2


@pytest.mark.parametrize("kind", [SystemExit, GeneratorExit])
def test_a_handler_that_would_end_the_program_ends_its_batch(kind: type[BaseException]) -> None:
    answered: list[Exception] = []

    def leave(events: object, dispatch: Dispatch) -> None:
        raise kind

    stage = queued(leave, batch=1, on_fault=lambda events, error: answered.append(error))
    put(stage, "ab")
    assert run(stage) == 2
    assert len(answered) == stage.describe()["faults"] == 2


def test_what_is_no_fault_of_the_handler_is_not_swallowed() -> None:
    def interrupt(events: object, dispatch: Dispatch) -> None:
        raise KeyboardInterrupt

    stage = queued(interrupt)
    put(stage, "a")
    with pytest.raises(KeyboardInterrupt):
        run(stage)


def test_any_source_of_events_will_do() -> None:
    class Countdown:
        capacity = None
        events_in = None
        dropped = 0
        ready = False

        def __init__(self, start: int) -> None:
            self.left = start

        def __len__(self) -> int:
            return 0

        def take(self, most: int, timeout_s: float | None = None) -> list[int] | None:
            if not self.left:
                return None
            taken = list(range(self.left, max(0, self.left - most), -1))
            self.left -= len(taken)
            return taken

        def close(self) -> None:
            self.left = 0

    seen: list[int] = []
    stage = Stage("count", lambda events, dispatch: seen.extend(events), Countdown(5), batch=2)
    assert run(stage) == 3
    assert seen == [5, 4, 3, 2, 1]
    told = stage.describe()
    assert (told["events_in"], told["queue_capacity"], told["wait_s"]) == (5, None, None)


def test_a_tally_that_was_given_back_is_used_again_and_keeps_its_counts() -> None:
    stage = queued(lambda events, dispatch: None, batch=1)
    for _ in range(3):
        put(stage, "ab")
        run(stage)
    assert stage.events_out == 6
    first, second = stage.tally(), stage.tally()
    assert first is not second
    assert (first.events, second.events) == (6, 0)
