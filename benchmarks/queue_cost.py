"""What an event costs: through a stage and its queue, and through the standard library's queue.

One thread does all, so that nothing is measured but the work of the queues:
`queue.Queue` with one `put` and one `get` an event, `EventQueue` with batches
of 64, and a stage's turn with a handler that does nothing.
"""

from __future__ import annotations

import queue
import random
import statistics
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.tables import show
from servers.seda import EventQueue, Stage

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

BATCH = 64
EVENTS = BATCH * 3000


def standard() -> None:
    line: queue.Queue[int] = queue.Queue(4096)
    put, get = line.put, line.get
    for event in range(EVENTS):
        put(event)
        get()


def event_queue() -> None:
    line: EventQueue[int] = EventQueue(4096)
    batch = list(range(BATCH))
    put, take = line.put, line.take
    for _ in range(EVENTS // BATCH):
        put(batch)
        take(BATCH, 0)


def stage() -> None:
    line: EventQueue[int] = EventQueue(4096)
    one: Stage[int] = Stage("one", lambda events, dispatch: None, line)
    batch = list(range(BATCH))
    put, turn, tally = line.put, one.turn, one.tally()
    for _ in range(EVENTS // BATCH):
        put(batch)
        turn(tally)


def nanoseconds(work: Callable[[], None]) -> float:
    begin = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin) / EVENTS


def main(effort: Effort) -> None:
    cases = {
        "queue.Queue, put and get": standard,
        "EventQueue, batches of 64": event_queue,
        "stage and its queue, batches of 64": stage,
    }
    found: dict[str, list[float]] = {name: [] for name in cases}
    order = list(cases)
    for _ in range(max(5, effort.rounds)):
        random.shuffle(order)
        for name in order:
            found[name].append(nanoseconds(cases[name]))
    middle = {name: statistics.median(values) for name, values in found.items()}
    reference = next(iter(middle.values()))
    table = Table(title="nanoseconds an event, one thread")
    for name in ("", "median", "of queue.Queue"):
        table.add_column(name, justify="right" if name else "left")
    for name, value in middle.items():
        table.add_row(name, f"{value:.1f}", f"{value / reference:.3f}")
    share = middle["EventQueue, batches of 64"] / middle["stage and its queue, batches of 64"]
    table.caption = f"share of the stage that is its queue: {share:.2f}"
    show(table, 100)
