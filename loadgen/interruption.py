"""SIGINT, SIGTERM and SIGHUP, for a program that runs in the foreground.

They unwind the stack as Ctrl-C does, so that children are stopped and files are
closed; and they do so once.  Whoever stops a program may send several (a terminal
that closes sends SIGHUP beside the shell's own; an impatient hand sends SIGINT
three times): those that follow within `SAME_GESTURE_S` belong to the first, and
would otherwise strike the code that is cleaning up.  A later one hurries it.

Imports nothing that takes time: it is to be the first that a program imports.
"""

from __future__ import annotations

import atexit
import contextlib
import operator
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

INTERRUPTIONS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

SAME_GESTURE_S = 1.0
"""Pulled out of the air: longer than a cleaning up without children, and than one gesture."""


class StoppedBySignal(KeyboardInterrupt):
    """SIGTERM or SIGHUP, raised where Ctrl-C would be, so that both unwind alike."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


def number_of(stop: KeyboardInterrupt) -> int:
    """The signal that was it."""
    return stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT


def leave_at_once() -> None:
    """From now on a signal ends the process: nothing has begun yet."""

    def leave(signum: int, _frame: FrameType | None) -> None:
        os._exit(128 + signum)

    for number in _heard():
        signal.signal(number, leave)


class _Raising:
    """The handler.  One for the whole process, so that it knows when the last signal was."""

    def __init__(self) -> None:
        self.last_s = float("-inf")

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        before_s, self.last_s = self.last_s, time.monotonic()
        if self.last_s - before_s > SAME_GESTURE_S:
            raise KeyboardInterrupt if signum == signal.SIGINT else StoppedBySignal(signum)


_raising = _Raising()


def raise_once() -> dict[int, Any]:
    """From now on a signal is an exception; return the handlers that were there before."""
    return {number: signal.signal(number, _raising) for number in _heard()}


def ignore() -> None:
    """From now on nothing interrupts: the process ends by itself, and in order.

    With a handler that is no Python, so that no signal can interrupt it; not with SIG_IGN,
    for Python complains of a signal that is on its way when that is set.
    """
    for number in _heard():
        signal.signal(number, operator.is_)


def guarded(run: Callable[[], int]) -> int:
    """The exit status of `run`, whatever comes whenever; afterwards nothing interrupts."""
    try:
        try:
            raise_once()
            status = run()
        except SystemExit as end:  # how click and argparse end
            status = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            ignore()
    except KeyboardInterrupt as stop:  # `run` did not see it, or it had just ended
        ignore()
        status = 128 + number_of(stop)
    return status


def leave(status: int) -> NoReturn:
    """End the process, but for what Python does last of all.

    It gives signals with a handler their default action back then; one that came would make
    of a program that has done its work one that was killed.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None where it is closed
            stream.flush()
    os._exit(status)


def _heard() -> list[int]:
    """Those that this process was not started to ignore: nohup stays nohup."""
    return [number for number in INTERRUPTIONS if signal.getsignal(number) != signal.SIG_IGN]
