"""The hot loop of the open loop, for a run with an end (`loop.py`) and for one without
(`loadgen/engine/process.py`).

A request that is due takes the connection that has been free longest; if none
is free it waits, in schedule order, and its latency still counts from its
scheduled time.

The loop does only what happens to every request that goes well: send, receive,
look up the head (`reply.py`), note the time.  Anything else is a method of
`Connections`.  Schedule, window, reports and the end are the caller's, in
`tick`, which is called every 1 to 10 ms.

Against nginx at 50,000 requests/s a request costs 12 to 14 us, and the loop is
idle for a third of the time.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeAlias

from loadgen.http.config import HttpConfig
from loadgen.http.connections import Connections
from loadgen.http.ledger import Ledger
from loadgen.http.pool import BUSY, IDLE, Connection
from loadgen.http.records import NEVER_SENT
from loadgen.http.reply import END

RECEIVE_BYTES = 16 * 1024
"""Size of the first read of a reply; the rest of a larger reply is read in larger pieces."""

SENDS_PER_TURN = 16
"""Requests sent, and events taken, before the other side has its turn.  As many of one as of the
other: otherwise connections that become free together wait for several turns, which is lag."""

FOREVER_NS = 1 << 62

Tick: TypeAlias = Callable[[int, int, int], tuple[int, int, int]]
"""From (now in ns, next request, idle turns so far) to (next request, number of requests
scheduled, time of the next tick in ns; 0 ends the loop)."""


def open_loop(connections: Connections, ledger: Ledger, config: HttpConfig, tick: Tick) -> None:
    """Send what is due and receive the replies until `tick` ends it."""
    poll, clock, sleep = connections.epoll.poll, time.monotonic_ns, select.select
    by_fd, free, wires, heads, closed = (
        connections.by_fd, connections.free, connections.wires, connections.heads,
        connections.closed,
    )  # fmt: skip
    scheduled, sent, done, lag = ledger.scheduled, ledger.sent, ledger.done, ledger.lag
    by, outcome, size = ledger.connection, ledger.outcome, ledger.size
    choice, choice_mask, mask = ledger.choice, ledger.choice_mask, ledger.mask
    timeout_ns = round(config.timeout_s * 1e9)
    limited = config.requests_per_connection > 0
    spin = config.spin
    c: Connection | None
    i, count, due_ns, next_tick_ns, idle = 0, 0, FOREVER_NS, 0, 0
    while True:
        now = clock()
        if due_ns <= now and free:
            for _ in range(SENDS_PER_TURN):
                slot = i & mask
                if now - due_ns > timeout_ns:  # too late to be of use to anybody
                    outcome[slot] = NEVER_SENT
                    ledger.own_unsent += free[0].since_ns < due_ns
                else:
                    c = free.popleft()
                    c.request = slot
                    c.template = t = choice[i & choice_mask]
                    c.known = heads[t]
                    c.state = BUSY
                    by[slot] = c.number
                    sent[slot] = now
                    since_ns = c.since_ns
                    lag[slot] = now - (due_ns if due_ns > since_ns else since_ns)
                    wire = wires[t] if not limited else connections.limited_wire(c, t)
                    try:
                        taken = c.send(wire)
                        if taken != len(wire):
                            connections.send_later(c, wire[taken:])
                    except OSError as error:
                        connections.send_failed(c, wire, error)
                i += 1
                due_ns = scheduled[i & mask] if i < count else FOREVER_NS
                now = clock()
                if due_ns > now or not free:
                    break
        if now >= next_tick_ns:
            i, count, next_tick_ns = tick(now, i, idle)
            if not next_tick_ns:
                return
            due_ns = scheduled[i & mask] if i < count else FOREVER_NS
        if closed:
            connections.reopen(1)
        events = poll(0, SENDS_PER_TURN)
        if not events:
            idle += 1
            if not spin and not closed:
                # epoll's own timeout counts in milliseconds; select() on the epoll's descriptor
                # sleeps to the microsecond.
                wake_ns = min(due_ns, next_tick_ns) if free else next_tick_ns
                if (wait_s := (wake_ns - clock()) / 1e9) > 0:
                    sleep([connections.epoll], [], [], wait_s)
            continue
        for fd, event in events:
            c = by_fd.get(fd)
            if c is None:  # closed because of an earlier event of this batch
                continue
            known = c.known
            if known is None:
                connections.event(c, event)
                continue
            try:
                data = c.recv(RECEIVE_BYTES)
            except OSError as error:
                connections.io_failed(c, error)
                continue
            end = data.find(END)
            found = known.get(data[: end + 4])
            if found is not None and found[0] == len(data) - end and not limited:
                r = c.request
                done[r] = c.since_ns = clock()
                outcome[r] = found[1]
                if size is not None:
                    size[r] = found[0]
                c.known = None
                c.state = IDLE
                free.append(c)
            else:
                connections.received(c, data)
