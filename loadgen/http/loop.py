"""An HTTP run from beginning to end: schedule, connections, warm-up, window, and the records.

Closed loop: every connection sends a request, waits for the reply, sends the
next.  The load follows the server: one that stalls is asked less.

Open loop: requests have a schedule, made beforehand (`demand/arrivals.py`), that
no server can delay; latency counts from the scheduled time.  So a stall of the
server shows in every request that fell into it (otherwise Tene's "coordinated
omission" is what happens).

The plan:

- The hot loops (`open_loop.py`, `closed_loop.py`) know no phase, no window and no
  statistics; they note times and outcomes in a `Ledger`.
- `_Run._tick`, every 1 to 10 ms, handles timeouts, connections to be reopened, and
  the ends of the window.  What counts as within the window is decided afterwards,
  from the times in the ledger (`result.py`).

While it measures, an open loop with a core of its own spins: it polls epoll
without waiting.  A sleeping thread is woken 80 us late (the median at 5,000
requests/s; 0.3 us when it spins), and whatever is sent late is the generator's
error.  That lateness is kept for every request (`lag_ns`), so that nobody
has to take it on trust.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from loadgen.collector import no_garbage_collection
from loadgen.demand.arrivals import schedule
from loadgen.errors import LoadError
from loadgen.http import ledger
from loadgen.http.closed_loop import closed_loop
from loadgen.http.config import HttpConfig
from loadgen.http.connections import Connections
from loadgen.http.open_loop import FOREVER_NS, SENDS_PER_TURN, open_loop
from loadgen.http.records import Raw, Records

OnEvent: TypeAlias = Callable[[str, int], None]
"""Called with (`connected` | `window_begin` | `window_end`, t_ns) as they happen."""

TICK_NS, SHORT_TICK_NS = 10_000_000, 1_000_000
"""The short one while many requests time out."""

PAUSE_NS = 10_000_000
"""A tick later than this was held up: a turn of the loop takes some hundred us, and a closed
loop sleeps for at most 5 ms."""

START_DELAY_NS = 20_000_000
"""From the last preparation to time 0 of the schedule."""

CHOICES = 1 << 16
"""A closed loop cycles through this many drawn templates."""


def run(
    config: HttpConfig,
    on_event: OnEvent | None = None,
    *,
    part: tuple[int, int] = (0, 1),
    start_ns: int | None = None,
) -> Raw:
    """Open the connections, warm up, measure, wait for what is in flight.

    `part` (k, n): send every n-th request of the schedule, from the k-th.

    Raises:
        LoadError: the run cannot begin.
    """
    this = _Run(config, on_event or (lambda name, t_ns: None), part)
    with this.connections, no_garbage_collection():
        this.begin(start_ns)
        if config.open_loop:
            open_loop(this.connections, this.ledger, config, this.tick_open)
        else:
            closed_loop(this.connections, this.ledger, config, this.start_ns, this.tick_closed)
    return this.raw()


class _Run:
    """One run by one process."""

    def __init__(self, config: HttpConfig, on_event: OnEvent, part: tuple[int, int]) -> None:
        self.config = config
        self.on_event = on_event
        number, of = part
        choice = array("H")
        if config.open_loop:
            assert config.rate is not None
            offsets = schedule(config.arrivals, config.rate, config.length_s, config.seed)
            chosen = config.mix.choose(len(offsets), config.seed)
            self.offsets = offsets[number::of]
            choice.frombytes(chosen[number::of].tobytes())
            if not len(self.offsets):
                raise LoadError("the schedule is empty: use a higher --rate or a longer --duration")
            self.ledger = ledger.finite(array("q", bytes(8 * len(self.offsets))), choice)
        else:
            choice.frombytes(config.mix.choose(CHOICES, config.seed + number).tobytes())
            self.ledger = ledger.growing(choice)
        self.connections = Connections(config, self.ledger)
        self.mark_ns = [0, 0]  # CPU time at both ends of the window
        self.idle_turns = 0
        self.idle_marks = [0, 0]
        self.idle_turn_ns = 0.0
        self.next_tick_ns = 0
        self.ends_seen = 0
        self.paused_ns = 0
        self.stopping = False

    def begin(self, start_ns: int | None) -> None:
        config = self.config
        self.connections.open_all()
        self.on_event("connected", time.monotonic_ns())
        self.idle_turn_ns = self._idle_turn_cost_ns()
        self.start_ns = start_ns if start_ns is not None else time.monotonic_ns() + START_DELAY_NS
        self.begin_ns = self.start_ns + round(config.warmup_s * 1e9)
        self.end_ns = self.start_ns + round(config.length_s * 1e9)
        if config.open_loop:
            np.frombuffer(self.ledger.scheduled, np.int64)[:] = self.offsets + self.start_ns
        self.give_up_ns = self.end_ns + round(1.1 * config.timeout_s * 1e9) + TICK_NS

    def _idle_turn_cost_ns(self) -> float:
        """Cost of polling epoll and finding nothing, reading the clock included."""
        poll, clock = self.connections.epoll.poll, time.monotonic_ns
        turns = 1000
        began = clock()
        for _ in range(turns):
            poll(0, SENDS_PER_TURN)
            clock()
        return (clock() - began) / turns

    def tick_open(self, now: int, i: int, idle: int) -> tuple[int, int, int]:
        """For `open_loop`."""
        self.idle_turns = idle
        scheduled = self.ledger.scheduled
        count = len(scheduled)
        self._tick(now, all_sent=i == count)
        if not self.connections.free:  # skip what would be too late once a connection is free
            too_late_ns = now - round(self.config.timeout_s * 1e9)
            while i < count and scheduled[i] < too_late_ns:
                i += 1
        return i, count, self.next_tick_ns

    def tick_closed(self, now: int) -> tuple[int, bool]:
        """For `closed_loop`."""
        self._tick(now, all_sent=self.stopping)
        return self.next_tick_ns, self.stopping

    def _tick(self, now: int, all_sent: bool) -> None:
        """Move through the phases; sets `next_tick_ns`, to 0 at the end."""
        due_ns, self.next_tick_ns = self.next_tick_ns, 0
        if due_ns and now - due_ns > PAUSE_NS:
            # With few connections the send lag hardly shows a pause: only that many requests are
            # sent late, and all those behind them merely wait for a connection.
            self.paused_ns += max(0, min(now, self.end_ns) - max(due_ns, self.begin_ns))
        for end, (at_ns, name) in enumerate(
            ((self.begin_ns, "window_begin"), (self.end_ns, "window_end"))
        ):
            if end == self.ends_seen and now >= at_ns:
                self.ends_seen += 1
                self.mark_ns[end] = time.process_time_ns()
                self.idle_marks[end] = self.idle_turns
                self.on_event(name, now)
                if end and not self.config.open_loop:
                    self.stopping = all_sent = True
        self.connections.maintain(now)
        if self.ends_seen == 2:
            if all_sent and not self.connections.any_busy():
                return
            if now > self.give_up_ns:
                self.connections.give_up()
                return
        ends = (self.begin_ns, self.end_ns, FOREVER_NS)
        soon = SHORT_TICK_NS if self.connections.needs_short_ticks else TICK_NS
        self.next_tick_ns = max(now + 1, min(now + soon, ends[self.ends_seen]))

    def raw(self) -> Raw:
        config, connections, book = self.config, self.connections, self.ledger
        sent = np.frombuffer(book.sent, np.int64).copy()
        if config.open_loop:
            scheduled = np.frombuffer(book.scheduled, np.int64).copy()
            template = np.frombuffer(book.choice, np.uint16).copy()
            lag = np.frombuffer(book.lag, np.int64).copy()
        else:
            scheduled, lag = sent, np.zeros(len(sent), np.int64)
            template = np.resize(np.frombuffer(book.choice, np.uint16), len(sent))
        records = Records(
            scheduled_ns=scheduled,
            sent_ns=sent,
            done_ns=np.frombuffer(book.done, np.int64).copy(),
            lag_ns=lag,
            outcome=np.frombuffer(book.outcome, np.uint8).copy(),
            template=template,
            connection=np.frombuffer(book.connection, np.int32).copy(),
        )
        cpu_ns = self.mark_ns[1] - self.mark_ns[0]
        window_ns = self.end_ns - self.begin_ns
        busy = cpu_ns / window_ns
        if config.open_loop and config.spin:
            turns = self.idle_marks[1] - self.idle_marks[0]
            busy = max(0.0, 1 - turns * self.idle_turn_ns / window_ns)
        return Raw(
            records, self.start_ns, connections.connected, dict(connections.error_kinds),
            connections.reconnects, cpu_ns, busy, book.own_unsent, connections.first_wrong,
            self.paused_ns,
        )  # fmt: skip
