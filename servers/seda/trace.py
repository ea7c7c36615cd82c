"""The paths of sampled requests through the stages, as Chrome trace JSON.

One row per request, named after how it ended.  For every stage that it passed there is
a bar "wait" (in its queue) and a bar with the stage's name, which lasts from when the
handler began with the batch until it had finished all of it, since a batch leaves a
stage as a whole; its argument is the size of the batch.  `read` has no wait, because the
kernel does not say when a socket became ready.  A request that was shed, or whose
connection ended first, ends with a bar that says so and lasts as long as it had waited.
(The stage `accept` is in no path: its events are connections.)

A traced request carries the list of its stages (`Sample.trail`).  The threads of the
stages append to it, one after another, and the one that finishes it queues it to be
written.  The main thread writes the file; it has nothing else to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections import deque
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

from servers.options import UsageError
from servers.seda.sample import Sample, Trail
from servers.service import Request

MAX_UNWRITTEN_PATHS = 10_000
"""Paths that may wait to be written; beyond that, the oldest are lost."""

Path: TypeAlias = tuple[Trail, str, int]
"""A trail, how it ended, and when."""

ANSWERED = "answered"
REJECTED = "rejected"
ABANDONED = "abandoned"


class Tracer:
    """Writes the file `path`; every `every`-th sampled request is traced."""

    def __init__(self, path: str, every: int) -> None:
        self.every = every
        self._finished: deque[Path] = deque(maxlen=MAX_UNWRITTEN_PATHS)
        self._sampled = 0
        self._rows = 0
        self._path = path
        self._failed: OSError | None = None
        process = {"ph": "M", "name": "process_name", "pid": os.getpid(), "args": {"name": "seda"}}
        try:
            self._file: IO[str] = open(path, "w", encoding="utf-8")  # noqa: PTH123, SIM115
            self._file.write('{"displayTimeUnit":"ms","traceEvents":[\n' + json.dumps(process))
            self._file.flush()  # a full disk is known now
        except OSError as error:
            raise self._refusal(error) from None

    def wants(self) -> bool:
        """Is the next sampled request to be traced?"""
        self._sampled += 1
        return self._sampled % self.every == 0

    def passed(
        self, requests: Sequence[Request], stage: str, begin_ns: int, events: int | None = None
    ) -> None:
        """A handler that began at `begin_ns` has finished a batch (of `events`, if given)."""
        end_ns = time.monotonic_ns()
        for request in requests:
            sample: Sample | None = request.context
            if sample is None:
                continue
            trail = sample.trail  # read once: another thread may finish it
            if trail is not None:
                trail.append((stage, begin_ns, end_ns, events or len(requests)))

    def finish(self, request: Request, ending: str = ANSWERED) -> None:
        """Its path ends here, now, if it is traced; nothing is appended any more."""
        sample: Sample | None = request.context
        if sample is None:
            return
        trail, sample.trail = sample.trail, None
        if trail:
            self._finished.append((trail, ending, time.monotonic_ns()))

    def finish_all(self, requests: Sequence[Request], ending: str = ANSWERED) -> None:
        """The paths of all traced ones among `requests` end here."""
        for request in requests:
            if request.context is not None:
                self.finish(request, ending)

    def write(self) -> None:
        """Write the paths that are complete."""
        if self._failed is None:
            try:
                while self._finished:
                    self._write_row(*self._finished.popleft())
            except OSError as error:  # the disk is full: go on serving
                self._failed = error

    def _write_row(self, trail: Trail, ending: str, end_ns: int) -> None:
        self._rows += 1
        title = {"name": f"request {self._rows}: {ending}"}
        self._write_event("M", "thread_name", {"args": title})
        before_ns = 0
        for stage, begin_ns, stage_end_ns, events in trail:
            if before_ns:
                self._bar(f"wait for {stage}", "queue", before_ns, begin_ns)
            self._bar(stage, "service", begin_ns, stage_end_ns, {"events": events})
            before_ns = stage_end_ns
        if ending != ANSWERED:
            self._bar(ending, "ending", before_ns, end_ns)

    def _bar(
        self,
        name: str,
        category: str,
        begin_ns: int,
        end_ns: int,
        more: dict[str, int] | None = None,
    ) -> None:
        self._write_event("X", name, {
            "cat": category, "ts": begin_ns / 1e3, "dur": max(0, end_ns - begin_ns) / 1e3,
            "args": more or {},
        })  # fmt: skip

    def _write_event(self, kind: str, name: str, more: dict[str, Any]) -> None:
        event = {"ph": kind, "name": name, "pid": os.getpid(), "tid": self._rows, **more}
        self._file.write(",\n" + json.dumps(event))

    def close(self) -> None:
        """Raises UsageError if the file is incomplete."""
        self.write()
        try:
            with contextlib.closing(self._file):
                self._file.write("\n]}\n")
        except OSError as error:
            self._failed = self._failed or error
        if self._failed is not None:
            raise self._refusal(self._failed)

    def _refusal(self, error: OSError) -> UsageError:
        return UsageError(f"cannot write the trace to {self._path}: {error.strerror}")
