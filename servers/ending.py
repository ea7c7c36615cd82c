"""The signals that end a server, heard from its first moment to its last.

Imported before anything that takes time, by whoever starts a server, and so imports
nothing of this project itself.  SIGHUP ends as SIGTERM and SIGINT do, unless the
process was started to ignore it (nohup).
"""

from __future__ import annotations

import contextlib
import operator
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def leave_at_once() -> None:
    """From now on: nothing is served yet, so a signal ends the process, in order.

    Who starts a server can hold the signals back until here (pthread_sigmask(3)).
    """
    _handle(lambda: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)


def ask_to_stop(stop: Callable[[], None]) -> None:
    """From now on: the first signal calls `stop`, and no other changes anything.

    Those that come before the first is dealt with call it too, so it must bear that.
    """

    def once() -> None:
        # No Python: a handler can be interrupted by the next signal, and that by another,
        # until the stack is full.  Not SIG_IGN: Python would complain of one that is on its way.
        for number in ENDING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, operator.is_)
        stop()

    _handle(once)


def leave(status: int) -> NoReturn:
    """End the process without Python's own shutting down.

    In that a signal with a handler gets its default action back; one that came then
    would kill a server that has done all its work.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None where it is closed
            stream.flush()
    os._exit(status)


def _handle(action: Callable[[], None]) -> None:
    for number in ENDING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: action())
