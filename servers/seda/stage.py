"""A stage: an event handler and the source of its events (the paper's Figure 2).

The handler is application code: it gets a batch of events, and a function to
dispatch events to other stages.  It controls neither the queue nor the
threads: the runner decides which thread calls `Stage.turn`, and when
(`servers.seda.runners`).  So a stage can be tested alone, without any thread::

    doubled = []
    stage = Stage("double", lambda events, dispatch: doubled.extend(2 * e for e in events),
                  EventQueue(8))
    stage.source.put([1, 2])
    stage.turn(stage.tally())        # -> 2; doubled is [2, 4]

Anything with the methods of `Source` can replace the queue, as the kernel's queues do
for the stages that touch the network (`servers.seda.kernel_queues`).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)

BATCH = 256
"""Maximum number of events per turn, unless a controller changes it."""

Dispatch: TypeAlias = Callable[[str, Sequence[Any]], Sequence[Any]]
"""`dispatch(stage, events)` returns the events that were lost, for the caller to answer."""

Handler: TypeAlias = Callable[[Sequence[E], Dispatch], object]

now_ns = time.monotonic_ns


class Source(Protocol[E_co]):
    """Where a stage's events come from."""

    @property
    def capacity(self) -> int | None:
        """Events that may wait; None if it is not for us to decide."""

    @property
    def events_in(self) -> int | None:
        """Events that have entered; None if nobody counts them before they are taken."""

    @property
    def dropped(self) -> int:
        """Events that were refused or thrown away."""

    @property
    def ready(self) -> bool:
        """Would `take` return events at once?  A guess; only useful for queues of our own."""

    def __len__(self) -> int: ...

    def take(self, max_events: int, timeout_s: float | None = None) -> Sequence[E_co] | None:
        """Wait for events: empty after the time-out; None when there will be no more."""

    def close(self) -> None:
        """Accept no more events."""


class Tally:
    """What one thread has done for a stage; only that thread writes, so there is no lock."""

    __slots__ = ("batches", "busy_ns", "events", "failed", "faults")

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.faults = 0
        self.failed = 0
        self.busy_ns = 0


def _nowhere(stage: str, events: Sequence[Any]) -> Sequence[Any]:
    """The dispatch function of a stage that stands alone: all events are lost."""
    return events


class Stage(Generic[E]):
    """One handler and its events.  `batch` may be changed at any time, by a controller."""

    def __init__(
        self,
        name: str,
        handler: Handler[E],
        source: Source[E],
        *,
        batch: int = BATCH,
        dispatch: Dispatch = _nowhere,
        on_fault: Callable[[Sequence[E], Exception], object] | None = None,
    ) -> None:
        self.name = name
        self.source = source
        self.batch = batch
        self.dispatch = dispatch
        self.queued = True
        """Events come through the source, which counts them; otherwise the handler is called."""
        self._handler = handler
        self._on_fault = on_fault
        self._last_fault: str | None = None
        self._tallies: list[Tally] = []
        self._free: deque[Tally] = deque()

    def tally(self) -> Tally:
        """A tally that only the calling thread writes, until it gives it back."""
        try:
            return self._free.pop()
        except IndexError:
            self._tallies.append(tally := Tally())
            return tally

    def give_back(self, tally: Tally) -> None:
        self._free.append(tally)

    def turn(self, tally: Tally, timeout_s: float | None = 0) -> int | None:
        """Take and handle one batch; return its size, or None when there are no more events."""
        events = self.source.take(self.batch, timeout_s)
        if not events:
            return None if events is None else 0
        self.handle(events, tally)
        return len(events)

    def handle(self, events: Sequence[E], tally: Tally) -> None:
        """Call the handler.  A fault costs this batch, but not the stage."""
        begin_ns = now_ns()
        try:
            self._handler(events, self.dispatch)
        except BaseException as error:  # SystemExit, too: it must not end this thread
            self._faulted(events, error, tally)
        tally.busy_ns += now_ns() - begin_ns
        tally.batches += 1
        tally.events += len(events)

    def _faulted(self, events: Sequence[E], error: BaseException, tally: Tally) -> None:
        if (
            isinstance(error, KeyboardInterrupt)
            and threading.current_thread() is threading.main_thread()
        ):
            raise error  # Ctrl-C
        tally.faults += 1
        tally.failed += len(events)
        self._last_fault = f"{type(error).__name__}: {error}"
        if self._on_fault is not None:
            fault = error if isinstance(error, Exception) else RuntimeError(self._last_fault)
            try:
                self._on_fault(events, fault)
            except BaseException:  # the stage survives that, too
                tally.faults += 1

    @property
    def events_out(self) -> int:
        return sum(tally.events for tally in self._tallies)

    @property
    def cost_ns(self) -> float:
        """Average cost of an event so far; 0 before the first."""
        events = self.events_out
        return sum(tally.busy_ns for tally in self._tallies) / events if events else 0.0

    def describe(self) -> dict[str, Any]:
        """For `/stats`; takes no lock.  Sums of times are since the start.

        `failed` are the events of batches whose handler raised: part of `events_out`.
        """
        source = self.source
        tallies = self._tallies
        events_out = self.events_out
        events_in = source.events_in if self.queued else None
        waited_ns = getattr(source, "waited_ns", None)
        return {
            "name": self.name,
            "queue_length": len(source),
            "queue_capacity": source.capacity,
            "batch": self.batch,
            "batches": sum(tally.batches for tally in tallies),
            "events_in": events_out if events_in is None else events_in,
            "events_out": events_out,
            "dropped": source.dropped,
            "losses": dict(getattr(source, "losses", {})),
            "faults": sum(tally.faults for tally in tallies),
            "failed": sum(tally.failed for tally in tallies),
            "last_fault": self._last_fault,
            "wait_s": waited_ns() / 1e9 if waited_ns else None,
            "busy_s": sum(tally.busy_ns for tally in tallies) / 1e9,
        }
