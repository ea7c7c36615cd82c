"""HTTP load, closed loop and open loop, from one thread and one epoll.

Closed loop: every connection sends a request, waits for the reply, sends the
next.  The load follows the server: one that stalls is asked less.

Open loop: requests have a schedule, made beforehand (`arrivals.py`), that no
server can delay.  A request that is due takes the connection that has been free
longest; if none is free it waits, in the order of the schedule, and its latency
counts from the scheduled time.  So a stall of the server shows in every request
that fell into it (Tene's "coordinated omission" is what happens otherwise).

The plan:

- The two hot loops, `closed` and `open`, do only what happens to every request
  that goes well: send, receive, look the head up (`http_reply.py`), note the
  time.  They know no phase, no window and no statistics.
- Everything else (a head not seen before, a reply in pieces, whatever fails)
  is a method of `Connections` (`http_connections.py`), called once it happens.
- Every request has a place in the same arrays from the start, with the outcome
  `never_sent` until another is known: nothing can be lost from the account.
- `_tick`, every 1 to 10 ms, sees to time-outs, connections to be opened again, and
  the ends of the window.  What is counted in the window is decided afterwards,
  from the times in the arrays.

While it measures, an open loop with a core of its own spins: it asks epoll
without waiting.  A sleeping thread is woken 80 us late (the median at 5,000
requests/s; 0.3 us when it spins), and what is sent late is the generator's
error.  What it was late by is kept for every request (`lag_ns`), so that nobody
has to believe it.
"""

from __future__ import annotations

import select
import time
from array import array
from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from loadgen.collector import no_garbage_collection
from loadgen.demand.arrivals import schedule
from loadgen.http.connections import BUSY, IDLE, Connection, Connections
from loadgen.http.reply import END
from loadgen.http.run import NEVER_SENT, HttpConfig, Raw, Records
from loadgen.net.targets import LoadError

OnEvent: TypeAlias = Callable[[str, int], None]
"""Called with (`connected` | `window_begin` | `window_end`, t_ns) as they happen."""

RECEIVE_BYTES = 16 * 1024
"""Of the first look at a reply; a larger one is read on in larger pieces."""

BATCH = 32
"""Events taken from epoll at once: at 12 us each none waits longer for us than 0.4 ms."""

SENDS_A_TURN = 16
"""Open loop: requests sent, and events taken, before it is the others' turn.  As many of one as of
the other: else connections that come free at once wait for several turns, which is lag."""

TICK_NS, SHORT_TICK_NS = 10_000_000, 1_000_000
"""The short one while many requests time out."""

PAUSE_NS = 10_000_000
"""A tick later than this was held up: a turn of the loop takes some hundred us, and under closed
loop waits for 5 ms."""

START_IN_NS = 20_000_000
"""From the last preparation to time 0 of the schedule."""

CHOICES = 1 << 16
"""A closed loop goes through so many drawn templates again and again."""

FOREVER_NS = 1 << 62


def run(
    config: HttpConfig,
    on_event: OnEvent | None = None,
    *,
    part: tuple[int, int] = (0, 1),
    start_ns: int | None = None,
) -> Raw:
    """Open the connections, warm up, measure, wait for what is under way.

    `part` (k, n): send every n-th request of the schedule, from the k-th.

    Raises:
        LoadError: it makes no sense to begin.
    """
    load = _Load(config, on_event or (lambda name, t_ns: None), part)
    with load.connections, no_garbage_collection():
        load.begin(start_ns)
        if config.open_loop:
            load.open()
        else:
            load.closed()
    return load.raw()


class _Load:
    """One run."""

    def __init__(self, config: HttpConfig, on_event: OnEvent, part: tuple[int, int]) -> None:
        self.config = config
        self.on_event = on_event
        number, of = part
        self.choice = array("H")
        if config.open_loop:
            assert config.rate is not None
            offsets = schedule(config.arrivals, config.rate, config.length_s, config.seed)
            chosen = config.mix.choose(len(offsets), config.seed)
            self.offsets = offsets[number::of]
            self.choice.frombytes(chosen[number::of].tobytes())
            if not len(self.offsets):
                raise LoadError("the schedule is empty: a higher --rate or a longer --duration")
            count = len(self.offsets)
        else:
            self.choice.frombytes(config.mix.choose(CHOICES, config.seed + number).tobytes())
            count = 0
        self.scheduled = array("q")
        self.sent = array("q", bytes(8 * count))
        self.done = array("q", bytes(8 * count))
        self.lag = array("q", bytes(8 * count))
        self.by = array("i", b"\xff" * (4 * count))
        self.outcome = bytearray([NEVER_SENT]) * count
        self.connections = Connections(config, self.done, self.outcome)
        self.connections.due = self.scheduled
        self.mark_ns = [0, 0]  # CPU time at both ends of the window
        self.idle_turns = 0
        self.idle_marks = [0, 0]
        self.idle_turn_ns = 0.0
        self.ends_seen = 0
        self.own_unsent = 0
        self.paused_ns = 0
        self.stopping = False

    def begin(self, start_ns: int | None) -> None:
        config = self.config
        self.connections.open_all()
        self.on_event("connected", time.monotonic_ns())
        self.idle_turn_ns = self._cost_of_an_idle_turn()
        self.start_ns = start_ns if start_ns is not None else time.monotonic_ns() + START_IN_NS
        self.begin_ns = self.start_ns + round(config.warmup_s * 1e9)
        self.end_ns = self.start_ns + round(config.length_s * 1e9)
        if config.open_loop:
            self.scheduled.frombytes((self.offsets + self.start_ns).astype(np.int64).tobytes())
        self.give_up_ns = self.end_ns + round(1.1 * config.timeout_s * 1e9) + TICK_NS

    def _cost_of_an_idle_turn(self) -> float:
        """ns of one look at epoll that finds nothing, the clock included."""
        poll, clock = self.connections.epoll.poll, time.monotonic_ns
        turns = 1000
        began = clock()
        for _ in range(turns):
            poll(0, BATCH)
            clock()
        return (clock() - began) / turns

    # The hot loop of the open loop: against nginx at 50,000 requests/s a request costs it 12
    # to 14 us, and it is idle for a third of the time.
    def open(self) -> None:
        connections, poll, clock = self.connections, self.connections.epoll.poll, time.monotonic_ns
        by_fd, free, wires, heads, closed = (
            connections.by_fd, connections.free, connections.wires, connections.heads,
            connections.closed,
        )  # fmt: skip
        scheduled, sent, done, lag, by = self.scheduled, self.sent, self.done, self.lag, self.by
        outcome, choice = self.outcome, self.choice
        timeout_ns = round(self.config.timeout_s * 1e9)
        limited = self.config.requests_per_connection > 0
        spin, wait = self.config.spin, self._wait
        count = len(scheduled)
        i, due_ns, next_tick_ns, idle = 0, scheduled[0], 0, 0
        c: Connection | None
        while True:
            now = clock()
            if due_ns <= now and free:
                for _ in range(SENDS_A_TURN):
                    if now - due_ns > timeout_ns:  # too late to be of use to anybody
                        self.own_unsent += free[0].since_ns < due_ns
                    else:
                        c = free.popleft()
                        c.request = i
                        c.template = t = choice[i]
                        c.known = heads[t]
                        c.state = BUSY
                        by[i] = c.number
                        sent[i] = now
                        since_ns = c.since_ns
                        lag[i] = now - (due_ns if due_ns > since_ns else since_ns)
                        wire = wires[t] if not limited else connections.limited_wire(c, t)
                        try:
                            taken = c.send(wire)
                            if taken != len(wire):
                                connections.send_later(c, wire[taken:])
                        except OSError as error:
                            connections.failed_to_send(c, wire, error)
                    i += 1
                    due_ns = scheduled[i] if i < count else FOREVER_NS
                    now = clock()
                    if due_ns > now or not free:
                        break
            if now >= next_tick_ns:
                self.idle_turns = idle
                next_tick_ns = self._tick(now, next_tick_ns, all_sent=i == count)
                if not next_tick_ns:
                    return
                if not free:  # pass over now what a connection would find too late when it comes
                    while now - due_ns > timeout_ns:
                        i += 1
                        due_ns = scheduled[i] if i < count else FOREVER_NS
            if closed:
                connections.reopen(1)
            elif not spin:
                wait(min(due_ns, next_tick_ns) if free else next_tick_ns)
            events = poll(0, SENDS_A_TURN)
            if not events:
                idle += 1
                continue
            for fd, event in events:
                c = by_fd.get(fd)
                if c is None:  # it was closed on account of an earlier event of this batch
                    continue
                known = c.known
                if known is None:
                    connections.event(c, event)
                    continue
                try:
                    data = c.recv(RECEIVE_BYTES)
                except OSError as error:
                    connections.broke(c, error)
                    continue
                end = data.find(END)
                found = known.get(data[: end + 4])
                if found is not None and found[0] == len(data) - end and not limited:
                    r = c.request
                    done[r] = c.since_ns = clock()
                    outcome[r] = found[1]
                    c.known = None
                    c.state = IDLE
                    free.append(c)
                else:
                    connections.piece(c, data)

    # The hot loop of the closed loop: 12 us a request against nginx with 64 connections.  wrk's,
    # in C, is no faster: it is the kernel's time.
    def closed(self) -> None:
        connections, poll, clock = self.connections, self.connections.epoll.poll, time.monotonic_ns
        by_fd, free, wires, heads, closed = (
            connections.by_fd, connections.free, connections.wires, connections.heads,
            connections.closed,
        )  # fmt: skip
        sent, done, by, outcome = self.sent, self.done, self.by, self.outcome
        choice, mask = self.choice, CHOICES - 1
        limited = self.config.requests_per_connection > 0
        note_sent, note_done, note_by, note_outcome = (
            sent.append, done.append, by.append, outcome.append,
        )  # fmt: skip
        connections.due = sent
        start_ns = self.start_ns
        next_tick_ns = 0
        # The last whole reply to each template: comparing it costs 75 ns, a look at a head 520.
        last: list[bytes | None] = [None] * len(wires)
        verdicts = [0] * len(wires)
        while True:
            now = clock()
            if now >= next_tick_ns:
                next_tick_ns = self._tick(now, next_tick_ns, all_sent=self.stopping)
                if not next_tick_ns:
                    return
            while free and now >= start_ns and not self.stopping:
                connections.send_next(free.popleft(), sent, by, choice)
            if closed and not self.stopping:
                connections.reopen(len(closed))
            for fd, event in poll(0.005, BATCH):
                c = by_fd.get(fd)
                if c is None:  # it was closed on account of an earlier event of this batch
                    continue
                known = c.known
                if known is None:
                    connections.event(c, event)
                    continue
                try:
                    data = c.recv(RECEIVE_BYTES)
                except OSError as error:
                    connections.broke(c, error)
                    continue
                if data != last[c.template] or self.stopping:
                    end = data.find(END)
                    found = known.get(data[: end + 4])
                    if found is None or found[0] != len(data) - end or limited or self.stopping:
                        connections.piece(c, data)
                        continue
                    last[c.template] = data
                    verdicts[c.template] = found[1]
                now = clock()
                done[c.request] = now
                outcome[c.request] = verdicts[c.template]
                c.request = i = len(sent)
                t = choice[i & mask]
                c.known = heads[t]
                c.template = t
                note_sent(now)
                note_done(0)
                note_by(c.number)
                note_outcome(NEVER_SENT)
                wire = wires[t]
                try:
                    taken = c.send(wire)
                    if taken != len(wire):
                        connections.send_later(c, wire[taken:])
                except OSError as error:
                    connections.failed_to_send(c, wire, error)

    def _wait(self, until_ns: int) -> None:
        """Sleep until a socket is ready or it is time, to the microsecond.

        epoll's own time-out counts in milliseconds; select() on the epoll's
        descriptor does not.
        """
        wait_s = (until_ns - time.monotonic_ns()) / 1e9
        if wait_s > 0:
            select.select([self.connections.epoll], [], [], wait_s)

    def _tick(self, now: int, due_ns: int, all_sent: bool) -> int:
        """See to whatever time brings; when to tick next, or 0 to end.

        `due_ns` is when this one should have been, 0 of the first.
        """
        if due_ns and now - due_ns > PAUSE_NS:
            # Of a pause the send lag knows little when connections are few: those requests are
            # sent late by it, and all behind them only wait for a connection.
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
        self.connections.look_after(now)
        if self.ends_seen == 2:
            if all_sent and not self.connections.any_busy():
                return 0
            if now > self.give_up_ns:
                self.connections.give_up()
                return 0
        ends = (self.begin_ns, self.end_ns, FOREVER_NS)
        soon = SHORT_TICK_NS if self.connections.in_a_hurry else TICK_NS
        return max(now + 1, min(now + soon, ends[self.ends_seen]))

    def raw(self) -> Raw:
        config, connections = self.config, self.connections
        sent = np.frombuffer(self.sent, np.int64).copy()
        if config.open_loop:
            scheduled = np.frombuffer(self.scheduled, np.int64).copy()
            template = np.frombuffer(self.choice, np.uint16).copy()
            lag = np.frombuffer(self.lag, np.int64).copy()
        else:
            scheduled, lag = sent, np.zeros(len(sent), np.int64)
            template = np.resize(np.frombuffer(self.choice, np.uint16), len(sent))
        records = Records(
            scheduled_ns=scheduled,
            sent_ns=sent,
            done_ns=np.frombuffer(self.done, np.int64).copy(),
            lag_ns=lag,
            outcome=np.frombuffer(self.outcome, np.uint8).copy(),
            template=template,
            connection=np.frombuffer(self.by, np.int32).copy(),
        )
        cpu_ns = self.mark_ns[1] - self.mark_ns[0]
        window_ns = self.end_ns - self.begin_ns
        busy = cpu_ns / window_ns
        if config.open_loop and config.spin:
            turns = self.idle_marks[1] - self.idle_marks[0]
            busy = max(0.0, 1 - turns * self.idle_turn_ns / window_ns)
        return Raw(
            records, self.start_ns, connections.connected, dict(connections.kinds),
            connections.reconnects, cpu_ns, busy, self.own_unsent, connections.first_wrong,
            self.paused_ns,
        )  # fmt: skip
