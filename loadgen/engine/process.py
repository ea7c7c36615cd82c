"""The open-loop engine as a process of its own, without an end, at a rate that may change.

    python -m loadgen.engine.process

speaks JSON lines: settings and then orders come in on standard input,

    {"target": "http://127.0.0.1:8080/", "mix": null, "connections": 64, ...}
    {"rate": 5000, "trial": 0, "lease_s": 2.5}    # from now on; trial null: not counted
    {"stop": true}                    # finish what is in flight, report, end

and reports go out, one every `REPORT_NS`:

    {"event": "ready", "connected": 64, "classes": [["GET", "/"]]}
    {"event": "report", "trials": {"0": {...}}, "cells": "...", "in_flight": 3, ...}
    {"event": "error", "message": "..."}      # and exit status 2

It ends by itself when its standard input does, and is killed when the process
that started it dies (`lifeline.py`).  An order with a lease expires: if whoever
gives the orders stalls, others have been given its share by then.  It shares no
interpreter, lock or loop with Locust.

The plan.  The hot loop is that of `load http` (`loadgen/http/open_loop.py`), but
its schedule is made while it runs, in slices of 10 ms, a little ahead of time; a
new rate applies from the next slice.  The ledger is a ring: element `i & mask`
belongs to request i until its outcome has been counted (`_count_outcomes`), which
happens at the latest one timeout after it was due.  A report is the increase
since the last one (`account.py`).
"""

from __future__ import annotations

from loadgen.interruption import INTERRUPTIONS, leave, leave_at_once

if __name__ == "__main__":  # first of all: numpy takes a tenth of a second to import
    leave_at_once()

import fcntl
import json
import os
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
from loadgen.engine.live_schedule import LiveSchedule
from loadgen.engine.settings import Settings
from loadgen.errors import LoadError
from loadgen.http import ledger
from loadgen.http.config import HttpConfig
from loadgen.http.connections import Connections
from loadgen.http.loop import CHOICES, SHORT_TICK_NS, TICK_NS
from loadgen.http.open_loop import FOREVER_NS, open_loop
from loadgen.http.records import NEVER_SENT, OUTCOMES
from loadgen.http.reply import END
from loadgen.lifeline import die_with

SLICE_NS = 10_000_000
AHEAD_NS = 2 * TICK_NS + SLICE_NS
"""How far the schedule reaches beyond now: two late ticks and a slice."""

FOLD_NS = 10_000_000
"""Minimum interval between two counts of outcomes.  Nothing is sent meanwhile: 800 requests take
0.2 ms, 4000 take 1.1 ms."""

REPORT_NS = 500_000_000

PENDING = len(OUTCOMES)
COUNTED = PENDING + 1
"""Outcomes of a ring element that is still in flight, and of one that has been counted."""

WARM_UP = -1
"""The trial number of what belongs to no trial."""

STALL_NS = 500_000_000
"""When the schedule has fallen this far behind, the process was stopped, and perhaps its machine.
What was due meanwhile is dropped: sending it at once would be a burst that nobody asked for, and
its delay is not the server's.  The trial's report says so."""


class Engine:
    """The load of one process.  `run` returns when it was told to stop."""

    def __init__(self, settings: Settings, config: HttpConfig, orders: int, out: TextIO) -> None:
        self.settings = settings
        self.config = config
        self.orders = orders
        self.out = out.fileno()
        os.set_blocking(orders, False)
        os.set_blocking(self.out, False)
        self._partial_order = b""
        self._unwritten = b""
        slots = self._slots()
        self.max_rate = slots / (1.1 * config.timeout_s + 1)
        self.limited = False
        choice = array("H")
        choice.frombytes(config.mix.choose(CHOICES, config.seed).tobytes())
        book = self.ledger = ledger.ring(slots, choice, COUNTED)
        assert book.size is not None
        self.connections = Connections(config, book)
        # The same memory for whole slices at once.
        self._scheduled, self._sent, self._done, self._lag, self._size = (
            np.frombuffer(ring, np.int64)
            for ring in (book.scheduled, book.sent, book.done, book.lag, book.size)
        )
        self._outcome = np.frombuffer(book.outcome, np.uint8)
        self._trial = np.zeros(slots, np.int16)
        classes = [(t.method, t.name) for t in config.mix.templates]
        self.classes = list(dict.fromkeys(classes))
        number_of = {name: number for number, name in enumerate(self.classes)}
        class_of = np.array([number_of[name] for name in classes])
        self._class = class_of[np.frombuffer(choice, np.uint16)]
        self.schedule = LiveSchedule(settings.arrivals, config.seed)
        self.account = Account(len(self.classes), config.slo_s * 1e9)
        self.rate = 0.0
        self.lease_ends_ns = 0
        self.trial = WARM_UP
        self.changes_ns = array("q", [0])
        self.change_trials = array("q", [WARM_UP])
        self.scheduled_count = 0
        self.counted_count = 0
        self.stopping_ns = 0
        self.ended = False
        self.signum = 0  # the signal that asked it to stop, if one did
        self._reported_kinds: Counter[str] = Counter()
        self._reported_cpu_ns = time.process_time_ns()

    def ask_to_stop(self, signum: int, _frame: FrameType | None) -> None:
        self.signum = signum

    def _slots(self) -> int:
        """A power of two: room for what is in flight at 100,000 requests/s, within bounds."""
        needed = 100_000 * (1.1 * self.config.timeout_s + 1)
        return 1 << min(22, max(17, int(needed).bit_length()))

    def run(self) -> None:
        with self.connections, no_garbage_collection():
            self.connections.open_all()
            self._send(
                {"event": "ready", "connected": self.connections.connected, "pid": os.getpid(),
                 "classes": self.classes}
            )  # fmt: skip
            now = time.monotonic_ns()
            self.until_ns = self.next_fold_ns = self.reported_ns = now
            open_loop(self.connections, self.ledger, self.config, self._tick)
        self._report(time.monotonic_ns())

    def _tick(self, now: int, i: int, _idle: int) -> tuple[int, int, int]:
        """For `open_loop`: orders, schedule, timeouts, counts, reports."""
        if not self.stopping_ns and now - self.until_ns > STALL_NS:
            counts = self.account.counts_of(self.trial)
            counts["ns"] += now - self.until_ns
            counts["stalled_ns"] += now - self.until_ns
            self.until_ns = now
        self._read_orders(now)
        if self.signum and not self.stopping_ns:
            self.stopping_ns = now
        if not self.stopping_ns:
            while self.until_ns < now + AHEAD_NS:
                self._make_slice()
        self.connections.maintain(now)
        too_late_ns = now - round(self.config.timeout_s * 1e9)
        while (
            i < self.scheduled_count and self.ledger.scheduled[i & self.ledger.mask] < too_late_ns
        ):
            self.ledger.outcome[i & self.ledger.mask] = NEVER_SENT
            i += 1
        if now >= self.next_fold_ns or self.stopping_ns:
            self._count_outcomes(i)
            took_ns = time.monotonic_ns() - now
            self.next_fold_ns = now + max(FOLD_NS, 20 * took_ns)  # at most a twentieth of the time
        if self.stopping_ns:
            waited_ns = now - self.stopping_ns
            self.ended = (
                self.counted_count == self.scheduled_count
                or waited_ns > 1.2e9 * self.config.timeout_s
            )
        elif now - self.reported_ns >= REPORT_NS:
            self._report(now)
        elif self._unwritten:
            self._write()
        if self.ended:
            return i, self.scheduled_count, 0
        soon = SHORT_TICK_NS if self.connections.needs_short_ticks else TICK_NS
        return i, self.scheduled_count, now + soon

    def _read_orders(self, now: int) -> None:
        try:
            data = os.read(self.orders, 1 << 16)
        except BlockingIOError:
            return
        if not data:  # whoever started us is gone, and nobody reads reports
            self.ended = True
            return
        *lines, self._partial_order = (self._partial_order + data).split(b"\n")
        for line in lines:
            order = json.loads(line)
            if order.get("stop"):
                self.stopping_ns = now
                return
            lease_s = order.get("lease_s")
            self.lease_ends_ns = FOREVER_NS if lease_s is None else now + round(lease_s * 1e9)
            self.rate = min(float(order["rate"]), self.max_rate)
            self.limited = self.limited or self.rate < order["rate"]
            trial = WARM_UP if order["trial"] is None else int(order["trial"])
            if trial != self.trial:
                self.trial = trial
                self.changes_ns.append(self.until_ns)
                self.change_trials.append(trial)

    def _make_slice(self) -> None:
        rate = self.rate if self.until_ns < self.lease_ends_ns else 0.0
        times = self.schedule.times(self.until_ns, SLICE_NS, rate)
        self.until_ns += SLICE_NS
        counts = self.account.counts_of(self.trial)
        counts["ns"] += SLICE_NS
        counts["scheduled"] += len(times)
        if len(times):
            slots = (
                np.arange(self.scheduled_count, self.scheduled_count + len(times))
                & self.ledger.mask
            )
            self._scheduled[slots] = times
            self._sent[slots] = 0
            self._outcome[slots] = PENDING
            self._trial[slots] = self.trial
            self.scheduled_count += len(times)

    def _count_outcomes(self, sent_to: int) -> None:
        """Count the outcomes known since the last time, of the requests before `sent_to`."""
        slots = np.arange(self.counted_count, sent_to) & self.ledger.mask
        known = slots[self._outcome[slots] < PENDING]
        if len(known):
            self._count(known)
            self._outcome[known] = COUNTED
        left = np.flatnonzero(self._outcome[slots] != COUNTED)
        self.counted_count = self.counted_count + int(left[0]) if len(left) else sent_to

    def _count(self, slots: npt.NDArray[np.int64]) -> None:
        done = self._done[slots]
        when = np.searchsorted(np.frombuffer(self.changes_ns, np.int64), done, "right")
        self.account.count(
            trial=self._trial[slots].astype(np.int64),
            done_in_trial=np.frombuffer(self.change_trials, np.int64)[when - 1],
            outcome=self._outcome[slots],
            class_number=self._class[slots & (CHOICES - 1)],
            scheduled=self._scheduled[slots],
            sent=self._sent[slots],
            done=done,
            lag=self._lag[slots],
            size=self._size[slots] - len(END),
        )

    def _report(self, now: int) -> None:
        cpu_ns = time.process_time_ns()
        kinds = self.connections.error_kinds
        self._send(
            {
                "event": "report",
                "elapsed_s": (now - self.reported_ns) / 1e9,
                "at_ns": now,
                **self.account.report(),
                "in_flight": self.scheduled_count - self.counted_count,
                "rate": self.rate,
                "limited": self.limited,
                "error_kinds": dict(kinds - self._reported_kinds),
                "first_wrong": self.connections.first_wrong,
                "cpu_s": (cpu_ns - self._reported_cpu_ns) / 1e9,
            }
        )
        self._reported_kinds, self._reported_cpu_ns, self.reported_ns = Counter(kinds), cpu_ns, now
        self.account.reset()

    def _send(self, message: dict[str, Any]) -> None:
        self._unwritten += json.dumps(message).encode() + b"\n"
        self._write()

    def _write(self) -> None:
        """Write what the pipe takes; a slow reader must not stop the load."""
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
    die_with(os.getppid())  # if our starter is dead already, standard input has ended
    try:
        line = sys.stdin.readline()
        if not line:
            return 1
        settings = Settings(**json.loads(line))
        engine = Engine(settings, settings.config(), sys.stdin.fileno(), sys.stdout)
        for number in INTERRUPTIONS:
            signal.signal(number, engine.ask_to_stop)
        for pipe in (sys.stdin, sys.stdout):
            _enlarge(pipe)
        engine.run()
        engine.flush()
    except LoadError as error:
        print(json.dumps({"event": "error", "message": str(error)}), flush=True)
        return 2
    except BrokenPipeError:
        return 1
    return 128 + engine.signum if engine.signum else 0


def _enlarge(pipe: TextIO) -> None:
    try:
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)
    except OSError:
        pass  # it keeps the usual 64 KB


if __name__ == "__main__":
    leave(main())
