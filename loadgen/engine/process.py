"""The open-loop engine as a process of its own, without an end, at a rate that may change.

    python -m loadgen.engine.process

speaks JSON lines: settings and then orders come in on standard input,

    {"target": "http://127.0.0.1:8080/", "mix": null, "connections": 64, ...}
    {"rate": 5000, "trial": 0, "lease_s": 2.5}    # from now on; trial null: not counted
    {"stop": true}                    # finish what is under way, report, end

and reports go out, one every `REPORT_NS`:

    {"event": "ready", "connected": 64, "classes": [["GET", "/"]]}
    {"event": "report", "trials": {"0": {...}}, "cells": "...", "in_flight": 3, ...}
    {"event": "error", "message": "..."}      # and exit status 2

It ends by itself when its standard input does, and is killed when who started
it dies (`lifeline.py`).  An order with a lease holds for so long and no longer:
if whoever gives orders stands still, others have been given its share.  It
shares no interpreter, lock or loop with Locust.

The plan.  `http.py` has its whole schedule and an array element for every
request before it begins.  Here the schedule is made while it runs, in slices of
10 ms, a little ahead of time; a new rate holds from the next slice.  The arrays
are rings: element `i & mask` is request i's until its fate was counted
(`_fold`), which is at the latest a time-out after it was due.  Connections,
replies and outcomes are those of `http_connections.py`.  What is reported is
the increase since the last report (`engine_account.py`).
"""

from __future__ import annotations

from loadgen.interruption import INTERRUPTIONS, leave, leave_at_once

if __name__ == "__main__":  # first of all: numpy takes a tenth of a second to import
    leave_at_once()

import fcntl
import json
import os
import select
import signal
import sys
import time
from array import array
from collections import Counter
from types import FrameType
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt

from loadgen.collector import no_garbage_collection
from loadgen.engine.account import Account
from loadgen.engine.arrivals import Arrivals
from loadgen.engine.connections import SizedConnections
from loadgen.engine.settings import Settings
from loadgen.http.connections import BUSY, IDLE, Connection
from loadgen.http.loop import FOREVER_NS, RECEIVE_BYTES, SENDS_A_TURN, SHORT_TICK_NS, TICK_NS
from loadgen.http.reply import END
from loadgen.http.run import NEVER_SENT, OUTCOMES, HttpConfig
from loadgen.lifeline import die_with
from loadgen.net.targets import LoadError

SLICE_NS = 10_000_000
AHEAD_NS = 2 * TICK_NS + SLICE_NS
"""How far the schedule reaches beyond now: two late ticks and a slice."""

FOLD_NS = 10_000_000
"""Between two counts of what became of requests.  Nothing is sent meanwhile: 800 of them take
0.2 ms, 4000 take 1.1."""

REPORT_NS = 500_000_000

CHOICES = 1 << 16
"""Drawn templates, gone through again and again."""

PENDING = len(OUTCOMES)
COUNTED = PENDING + 1
"""Outcomes of a ring element that is still under way, and of one that was counted."""

WARM_UP = -1
"""The trial of what belongs to none."""

STALL_NS = 500_000_000
"""The schedule has fallen so far behind: the process stood still, and its machine perhaps too.
What was due meanwhile is not sent at once, which nobody asked for, and not called the server's
delay; the trial is told."""


class Engine:
    """One process' worth of load.  `run` returns when it was told to stop."""

    def __init__(self, settings: Settings, config: HttpConfig, orders: int, out: TextIO) -> None:
        self.settings = settings
        self.config = config
        self.orders = orders
        self.out = out.fileno()
        os.set_blocking(orders, False)
        os.set_blocking(self.out, False)
        self._heard = b""
        self._unwritten = b""
        slots = self._slots()
        self.mask = slots - 1
        self.most_rate = slots / (1.1 * config.timeout_s + 1)
        self.limited = False
        self.choice = array("H")
        self.choice.frombytes(config.mix.choose(CHOICES, config.seed).tobytes())
        self.scheduled = array("q", bytes(8 * slots))
        self.sent = array("q", bytes(8 * slots))
        self.done = array("q", bytes(8 * slots))
        self.lag = array("q", bytes(8 * slots))
        self.size = array("q", bytes(8 * slots))
        self.outcome = bytearray([COUNTED]) * slots
        self.connections = SizedConnections(config, self.done, self.outcome, self.size)
        self.connections.due = self.scheduled
        # The same memory for whole slices at once.
        self._scheduled, self._sent, self._done, self._lag, self._size = (
            np.frombuffer(ring, np.int64)
            for ring in (self.scheduled, self.sent, self.done, self.lag, self.size)
        )
        self._outcome = np.frombuffer(self.outcome, np.uint8)
        self._trial = np.zeros(slots, np.int16)
        classes = [(t.method, t.name) for t in config.mix.templates]
        self.classes = list(dict.fromkeys(classes))
        number_of = {name: number for number, name in enumerate(self.classes)}
        class_of = np.array([number_of[name] for name in classes])
        self._class = class_of[np.frombuffer(self.choice, np.uint16)]
        self.arrivals = Arrivals(settings.arrivals, config.seed)
        self.account = Account(len(self.classes), config.slo_s * 1e9)
        self.rate = 0.0
        self.lease_ends_ns = 0
        self.trial = WARM_UP
        self.changes_ns = array("q", [0])
        self.change_trials = array("q", [WARM_UP])
        self.made = 0
        self.settled = 0
        self.stopping_ns = 0
        self.ended = False
        self.signum = 0  # the signal that asked it to stop, if one did
        self._kinds: Counter[str] = Counter()
        self._cpu_ns = time.process_time_ns()

    def ask_to_stop(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum

    def _slots(self) -> int:
        """A power of two: everything under way at 100,000 requests/s, within bounds."""
        needed = 100_000 * (1.1 * self.config.timeout_s + 1)
        return 1 << min(22, max(17, int(needed).bit_length()))

    def run(self) -> None:
        with self.connections, no_garbage_collection():
            self.connections.open_all()
            self._say(
                {"event": "ready", "connected": self.connections.connected, "pid": os.getpid(),
                 "classes": self.classes}
            )  # fmt: skip
            now = time.monotonic_ns()
            self.until_ns = self.next_fold_ns = self.reported_ns = now
            self._loop()
        self._report(time.monotonic_ns())

    # The hot loop, as `http._Load.open`, over rings.
    def _loop(self) -> None:
        connections, poll, clock = self.connections, self.connections.epoll.poll, time.monotonic_ns
        by_fd, free, wires, heads, closed = (
            connections.by_fd, connections.free, connections.wires, connections.heads,
            connections.closed,
        )  # fmt: skip
        scheduled, sent, done, lag = self.scheduled, self.sent, self.done, self.lag
        outcome, choice, mask, size = self.outcome, self.choice, self.mask, self.size
        timeout_ns = round(self.config.timeout_s * 1e9)
        spin = self.config.spin
        c: Connection | None
        i, made, due_ns, next_tick_ns = 0, 0, FOREVER_NS, 0
        while True:
            now = clock()
            if due_ns <= now and free:
                for _ in range(SENDS_A_TURN):
                    slot = i & mask
                    if now - due_ns > timeout_ns:
                        outcome[slot] = NEVER_SENT
                    else:
                        c = free.popleft()
                        c.request = slot
                        c.template = t = choice[slot & 0xFFFF]
                        c.known = heads[t]
                        c.state = BUSY
                        sent[slot] = now
                        since_ns = c.since_ns
                        lag[slot] = now - (due_ns if due_ns > since_ns else since_ns)
                        wire = wires[t]
                        try:
                            taken = c.send(wire)
                            if taken != len(wire):
                                connections.send_later(c, wire[taken:])
                        except OSError as error:
                            connections.failed_to_send(c, wire, error)
                    i += 1
                    due_ns = scheduled[i & mask] if i < made else FOREVER_NS
                    now = clock()
                    if due_ns > now or not free:
                        break
            if now >= next_tick_ns:
                i = self._tick(now, i)
                if self.ended:
                    return
                made = self.made
                due_ns = scheduled[i & mask] if i < made else FOREVER_NS
                next_tick_ns = now + (SHORT_TICK_NS if connections.in_a_hurry else TICK_NS)
            if closed:
                connections.reopen(1)
            events = poll(0, SENDS_A_TURN)
            if not events:  # only then is the time to sleep
                if not spin and not closed:
                    wait_s = ((min(due_ns, next_tick_ns) if free else next_tick_ns) - clock()) / 1e9
                    if wait_s > 0:
                        select.select([connections.epoll], [], [], wait_s)
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
                if found is not None and found[0] == len(data) - end:
                    r = c.request
                    done[r] = c.since_ns = clock()
                    size[r], outcome[r] = found
                    c.known = None
                    c.state = IDLE
                    free.append(c)
                else:
                    connections.piece(c, data)

    def _tick(self, now: int, i: int) -> int:
        """Orders, schedule, time-outs, counts, reports; the request that is next to be sent."""
        if not self.stopping_ns and now - self.until_ns > STALL_NS:
            counts = self.account.of(self.trial)
            counts["ns"] += now - self.until_ns
            counts["stalled_ns"] += now - self.until_ns
            self.until_ns = now
        self._listen(now)
        if self.signum and not self.stopping_ns:
            self.stopping_ns = now
        if not self.stopping_ns:
            while self.until_ns < now + AHEAD_NS:
                self._make_slice()
        self.connections.look_after(now)
        too_late_ns = now - round(self.config.timeout_s * 1e9)
        while i < self.made and self.scheduled[i & self.mask] < too_late_ns:
            self.outcome[i & self.mask] = NEVER_SENT
            i += 1
        if now >= self.next_fold_ns or self.stopping_ns:
            self._fold(i)
            took_ns = time.monotonic_ns() - now
            self.next_fold_ns = now + max(FOLD_NS, 20 * took_ns)  # a twentieth of the time
        if self.stopping_ns:
            waited_ns = now - self.stopping_ns
            self.ended = self.settled == self.made or waited_ns > 1.2e9 * self.config.timeout_s
        elif now - self.reported_ns >= REPORT_NS:
            self._report(now)
        elif self._unwritten:
            self._write()
        return i

    def _listen(self, now: int) -> None:
        try:
            data = os.read(self.orders, 1 << 16)
        except BlockingIOError:
            return
        if not data:  # whoever started us is gone, and nobody wants to know
            self.ended = True
            return
        *lines, self._heard = (self._heard + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if order.get("stop"):
                self.stopping_ns = now
                return
            lease_s = order.get("lease_s")
            self.lease_ends_ns = FOREVER_NS if lease_s is None else now + round(lease_s * 1e9)
            self.rate = min(float(order["rate"]), self.most_rate)
            self.limited = self.limited or self.rate < order["rate"]
            trial = WARM_UP if order["trial"] is None else int(order["trial"])
            if trial != self.trial:
                self.trial = trial
                self.changes_ns.append(self.until_ns)
                self.change_trials.append(trial)

    def _make_slice(self) -> None:
        rate = self.rate if self.until_ns < self.lease_ends_ns else 0.0
        times = self.arrivals.times(self.until_ns, SLICE_NS, rate)
        self.until_ns += SLICE_NS
        counts = self.account.of(self.trial)
        counts["ns"] += SLICE_NS
        counts["scheduled"] += len(times)
        if len(times):
            slots = np.arange(self.made, self.made + len(times)) & self.mask
            self._scheduled[slots] = times
            self._sent[slots] = 0
            self._outcome[slots] = PENDING
            self._trial[slots] = self.trial
            self.made += len(times)

    def _fold(self, sent_to: int) -> None:
        """Count what became of requests since the last time; those before `sent_to` can have."""
        slots = np.arange(self.settled, sent_to) & self.mask
        fresh = slots[self._outcome[slots] < PENDING]
        if len(fresh):
            self._count(fresh)
            self._outcome[fresh] = COUNTED
        left = np.flatnonzero(self._outcome[slots] != COUNTED)
        self.settled = self.settled + int(left[0]) if len(left) else sent_to

    def _count(self, slots: npt.NDArray[np.int64]) -> None:
        done = self._done[slots]
        when = np.searchsorted(np.frombuffer(self.changes_ns, np.int64), done, "right")
        self.account.count(
            trial=self._trial[slots].astype(np.int64),
            came_in=np.frombuffer(self.change_trials, np.int64)[when - 1],
            outcome=self._outcome[slots],
            which=self._class[slots & (CHOICES - 1)],
            scheduled=self._scheduled[slots],
            sent=self._sent[slots],
            done=done,
            lag=self._lag[slots],
            size=self._size[slots] - len(END),
        )

    def _report(self, now: int) -> None:
        cpu_ns = time.process_time_ns()
        kinds = self.connections.kinds
        self._say(
            {
                "event": "report",
                "elapsed_s": (now - self.reported_ns) / 1e9,
                "at_ns": now,
                **self.account.report(),
                "in_flight": self.made - self.settled,
                "rate": self.rate,
                "limited": self.limited,
                "error_kinds": dict(kinds - self._kinds),
                "first_wrong": self.connections.first_wrong,
                "cpu_s": (cpu_ns - self._cpu_ns) / 1e9,
            }
        )
        self._kinds, self._cpu_ns, self.reported_ns = Counter(kinds), cpu_ns, now
        self.account.forget()

    def _say(self, message: dict[str, Any]) -> None:
        self._unwritten += json.dumps(message).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        """What the pipe takes; a reader that is slow must not stop the load."""
        try:
            self._unwritten = self._unwritten[os.write(self.out, self._unwritten) :]
        except BlockingIOError:
            pass

    def flush(self) -> None:
        os.set_blocking(self.out, True)
        while self._unwritten:
            self._write()


def main() -> int:
    """Run until told to stop."""
    die_with(os.getppid())  # if that was not who started us any more, the input has ended
    try:
        line = sys.stdin.readline()
        if not line:
            return 1
        settings = Settings(**json.loads(line))
        engine = Engine(settings, settings.config(), sys.stdin.fileno(), sys.stdout)
        for number in INTERRUPTIONS:
            signal.signal(number, engine.ask_to_stop)
        for pipe in (sys.stdin, sys.stdout):
            _widen(pipe)
        engine.run()
        engine.flush()
    except LoadError as error:
        print(json.dumps({"event": "error", "message": str(error)}), flush=True)
        return 2
    except BrokenPipeError:
        return 1
    return 128 + engine.signum if engine.signum else 0


def _widen(pipe: TextIO) -> None:
    try:
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    except OSError:
        pass  # the usual 64 KB, then


if __name__ == "__main__":
    leave(main())
