"""A process that the kernel kills when its parent dies, whatever kills the parent.

`PR_SET_PDEATHSIG` (prctl(2)) is sent when the parent's *thread* ends that started the process:
whoever starts one must be a thread that outlives it.
"""

from __future__ import annotations

import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with(parent: int) -> None:
    """Called in the child, with the process id of the parent that started it."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before prctl: nobody would tell us
        os._exit(1)
