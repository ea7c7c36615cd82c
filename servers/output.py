"""Standard output and error of a command, whatever they lead to: closed, full, nobody reads.

`command` runs a command and ends the process.  Meanwhile no write to either
stream raises: what runs for an hour must not end because a log is full, and what
it measured is kept.  The first failure is remembered, what comes after it is
dropped, and the end tells, once:

    nobody reads (EPIPE: `| head -1`)      nothing is said; status 141, as of SIGPIPE
    closed (`>&-`), full, any other error  one line on standard error; status 2

in place of status 0; another status says more and stays.  What exists nowhere
else (the result of a load) goes through `tell`: it is written to standard error
when standard output does not take it.

A closed descriptor is filled first, or the next file that is opened would get
its number, and with it whatever is printed.  `servers/output.py` is a copy of
this file, since the two packages know nothing of each other; a test compares them.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO

CANNOT_WRITE = 2
NOBODY_READS = 128 + signal.SIGPIPE


class _Descriptor(io.FileIO):
    """A descriptor to which no write raises; the first failure is kept."""

    failed: OSError | None = None

    def write(self, data, /):  # type: ignore[no-untyped-def]
        while self.failed is None:
            try:
                written = super().write(data)
            except OSError as error:
                self.failed = error
                break
            if written is not None:
                return written
            select.select([], [self], [])  # somebody made it nonblocking
        return len(memoryview(data).cast("B"))


class Stream(io.TextIOWrapper):
    """Text on a `_Descriptor`; a character that the encoding lacks is written as an escape."""

    def __init__(self, descriptor: int, like: TextIO | None) -> None:
        self._descriptor = _Descriptor(descriptor, "w", closefd=False)
        errors = getattr(like, "errors", None) or "strict"
        super().__init__(
            io.BufferedWriter(self._descriptor),
            encoding=getattr(like, "encoding", None) or "utf-8",
            errors="backslashreplace" if errors == "strict" else errors,
            line_buffering=descriptor == 2 or self._descriptor.isatty(),
        )

    @property
    def failed(self) -> OSError | None:
        """Why nothing more is written, once that is so."""
        return self._descriptor.failed


def command(run: Callable[[], int | None]) -> NoReturn:
    """Run a command to its end, and end the process with its status: see above."""
    _fill_closed()
    before = sys.stdout, sys.stderr
    out = before[0] if _replaced(sys.stdout, sys.__stdout__) else Stream(1, sys.stdout)
    sys.stdout = out
    if not _replaced(sys.stderr, sys.__stderr__):
        sys.stderr = Stream(2, sys.stderr)
    try:
        status = _status(run)
        out.flush()
        failed = lost()
        if failed is not None and failed.errno != errno.EPIPE:
            print(f"error: standard output cannot be written ({_why(failed)})", file=sys.stderr)
        if failed is not None and status == 0:
            status = NOBODY_READS if failed.errno == errno.EPIPE else CANNOT_WRITE
        sys.stderr.flush()
    finally:
        sys.stdout, sys.stderr = before
    sys.exit(status)


def lost() -> OSError | None:
    """Why standard output takes nothing more; None while it does."""
    return sys.stdout.failed if isinstance(sys.stdout, Stream) else None


def tell(text: str) -> None:
    """Print what exists nowhere else: on standard error if standard output takes nothing."""
    print(text, flush=True)
    failed = lost()
    if failed is not None and failed.errno != errno.EPIPE:
        print(text, file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """Text that others wrote, without what a reader cannot see.

    That is controls, escape sequences among them, marks of direction and half characters.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def _status(run: Callable[[], int | None]) -> int:
    try:
        return run() or 0
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1


def _fill_closed() -> None:
    """Make the closed ones of 0, 1 and 2 what they seem: nothing to read, a failure to write.

    Only standard error becomes one that takes everything: there is nobody to tell.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            filler = os.open(os.devnull, mode)  # the lowest that is free: this one
            os.set_inheritable(filler, True)
            if filler == 0:
                sys.stdin = open(filler, closefd=False)  # noqa: SIM115


def _replaced(stream: TextIO | None, original: TextIO | None) -> bool:
    """Whether somebody has put a stream of their own there, as pytest and notebooks do."""
    return stream is not None and (stream is not original or isinstance(stream, Stream))


def _why(failed: OSError) -> str:
    return "it is closed" if failed.errno == errno.EBADF else failed.strerror or str(failed)
