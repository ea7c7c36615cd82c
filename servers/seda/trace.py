"""The paths of sampled requests through the stages, as Chrome trace JSON.

One row a request: for every stage a bar "wait" (in its queue) and a bar with
the stage's name (in its handler).  Perfetto and chrome://tracing open it.

A traced request carries the list of its stages; the stages' threads append
to it, each in its turn, and whoever finishes it hands it over.  The file is
written by the main thread, which has nothing else to do.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections import deque
from typing import IO

from servers.options import UsageError
from servers.service import Request

MOST_WAITING = 10_000
"""Paths that may wait to be written; beyond, the oldest are lost."""


class Tracer:
    """Writes `path`; every `every`-th sampled request is followed."""

    def __init__(self, path: str, every: int) -> None:
        self.every = every
        self._finished: deque[Request] = deque(maxlen=MOST_WAITING)
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
        """Shall the next sampled request be followed?"""
        self._sampled += 1
        return self._sampled % self.every == 0

    def finish(self, request: Request) -> None:
        self._finished.append(request)

    def write(self) -> None:
        """Write the paths that are complete."""
        if self._failed is None:
            try:
                self._write()
            except OSError as error:  # the disk is full: to serve goes before
                self._failed = error

    def _write(self) -> None:
        while self._finished:
            request = self._finished.popleft()
            self._rows += 1
            before_ns = request.entered_ns
            for stage, begin_ns, end_ns in request.trail or ():
                self._bar(f"wait for {stage}", "queue", before_ns, begin_ns)
                self._bar(stage, "service", begin_ns, end_ns)
                before_ns = end_ns

    def _bar(self, name: str, category: str, begin_ns: int, end_ns: int) -> None:
        bar = {
            "ph": "X", "name": name, "cat": category, "pid": os.getpid(), "tid": self._rows,
            "ts": begin_ns / 1e3, "dur": max(0, end_ns - begin_ns) / 1e3,
        }  # fmt: skip
        self._file.write(",\n" + json.dumps(bar))

    def close(self) -> None:
        """Raises UsageError if the file is not whole."""
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
