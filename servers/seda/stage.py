"""A stage: an event handler, an event queue and a thread pool (the paper's Figure 2).

The handler is application code: it gets a batch of events, and it controls
neither the queue nor the threads.  Each thread of the pool repeats: take a
batch from the queue, call the handler with it.  Whatever has the two methods
of `Source` can stand in the queue's place, as the kernel's queue of ready
sockets does for the stages that touch the network.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from servers.seda.queue import EventQueue

E = TypeVar("E")
E_co = TypeVar("E_co", covariant=True)

BATCH = 256
"""Events a thread takes at most.  64 to 1,024 made no difference at 64 connections and more."""


class Source(Protocol[E_co]):
    """Where a stage's events come from."""

    @property
    def capacity(self) -> int | None:
        """Events that may wait; None if it is not ours to say."""

    @property
    def events_in(self) -> int | None:
        """Events that have entered; None if nobody counts them before they are taken."""

    @property
    def dropped(self) -> int:
        """Events that were refused or thrown away."""

    def __len__(self) -> int: ...

    def take(self, most: int) -> Sequence[E_co] | None:
        """Wait for events; None when there will be no more."""

    def close(self) -> None:
        """Let nothing more in."""


class ThreadPool:
    """A fixed number of threads that all run `work`, each with a tally of its own."""

    def __init__(self, name: str, size: int, work: Callable[[Tally], None]) -> None:
        self.tallies = [Tally() for _ in range(size)]
        self._threads = [
            threading.Thread(target=work, args=(tally,), name=f"{name}-{number}", daemon=True)
            for number, tally in enumerate(self.tallies)
        ]

    def __len__(self) -> int:
        return sum(thread.is_alive() for thread in self._threads)

    def start(self) -> None:
        """Raises RuntimeError if the system gives us no more threads."""
        for thread in self._threads:
            thread.start()

    def join(self, timeout_s: float) -> bool:
        """Wait for the threads to end; False if some has not in time."""
        deadline_s = time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(0.0, deadline_s - time.monotonic()))
        return not len(self)


class Tally:
    """What one thread of a pool has done.  It alone writes, so there is no lock."""

    __slots__ = ("batches", "events", "faults")

    def __init__(self) -> None:
        self.batches = 0
        self.events = 0
        self.faults = 0


class Stage(Generic[E]):
    """`handler` is called with every batch that `source` yields, by `threads` threads."""

    def __init__(
        self,
        name: str,
        handler: Callable[[Sequence[E]], None],
        source: Source[E],
        *,
        threads: int = 1,
        batch: int = BATCH,
    ) -> None:
        self.name = name
        self.source = source
        self._handler = handler
        self._batch = batch
        self._pool = ThreadPool(name, threads, self._work)

    @classmethod
    def queued(
        cls, name: str, handler: Callable[[Sequence[E]], None], *, capacity: int, **how: Any
    ) -> tuple[Stage[E], Callable[[Sequence[E]], Sequence[E]]]:
        """A stage with an `EventQueue`, and the function that puts events into it."""
        events: EventQueue[E] = EventQueue(capacity)
        return cls(name, handler, events, **how), events.put

    def start(self) -> None:
        self._pool.start()

    def close(self) -> None:
        """Let no further events in; those inside are still handled."""
        self.source.close()

    def join(self, timeout_s: float) -> bool:
        """Wait until all events are handled; False if that took too long."""
        return self._pool.join(timeout_s)

    def _work(self, tally: Tally) -> None:
        """What a thread of the pool does all its life."""
        take = self.source.take
        handle = self._handler
        most = self._batch
        while (events := take(most)) is not None:
            try:
                handle(events)
            except Exception:  # the batch is lost, the stage is not
                tally.faults += 1
            tally.batches += 1
            tally.events += len(events)

    def describe(self) -> dict[str, Any]:
        """For `/stats`; takes no lock."""
        source = self.source
        tallies = self._pool.tallies
        events_out = sum(tally.events for tally in tallies)
        events_in = source.events_in
        return {
            "name": self.name,
            "queue_length": len(source),
            "queue_capacity": source.capacity,
            "threads": len(self._pool),
            "batches": sum(tally.batches for tally in tallies),
            "events_in": events_out if events_in is None else events_in,
            "events_out": events_out,
            "dropped": source.dropped,
            "faults": sum(tally.faults for tally in tallies),
        }
