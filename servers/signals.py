"""The signals that end a server, handled from its first moment to its last.

Whoever starts a server imports this first, before anything that takes time, so it imports
nothing from this project.  SIGHUP ends the server like SIGTERM and SIGINT, unless the
process was started with SIGHUP ignored (nohup).
"""

from __future__ import annotations

import contextlib
import operator
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

TERMINATING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def exit_on_signal() -> None:
    """From now on a signal exits with status 0 at once: nothing is being served yet.

    The parent process can block the signals until this point (pthread_sigmask(3)).
    """
    _handle(lambda: os._exit(0))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATING)


def stop_on_signal(stop: Callable[[], None]) -> None:
    """From now on the first signal calls `stop`, and later ones are ignored.

    Signals that arrive while the first is being handled call it too, so `stop` must be
    idempotent.
    """

    def once() -> None:
        # No Python function: a handler can be interrupted by the next signal, and that one by
        # another, until the stack overflows.  Not SIG_IGN: Python would complain about a
        # signal that is already on its way.
        for number in TERMINATING:
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, operator.is_)
        stop()

    _handle(once)


def exit_process(status: int) -> NoReturn:
    """Exit without Python's own shutdown.

    Python's shutdown restores the default action of every handled signal; a signal at that
    moment would kill a server that has finished its work.
    """
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # None if it is closed
            stream.flush()
    os._exit(status)


def _handle(action: Callable[[], None]) -> None:
    for number in TERMINATING:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: action())
