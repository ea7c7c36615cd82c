"""Which limit was reached, in plain words, when the system refused a resource.

The kernel and Python say little: a thread that cannot be started is the same
RuntimeError whether processes or address space ran out.  So the limits
themselves are examined.
"""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

_DEFAULT_STACK_BYTES = 8 << 20
"""The default stack of a thread: none can start with less address space than that."""

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.ENOSPC, errno.EAGAIN)
"""Error numbers of system calls that mean that something ran out."""


def is_shortage(error: BaseException) -> bool:
    """Was a limit reached, as opposed to a bug in the program?"""
    if isinstance(error, OSError):
        return error.errno in SHORTAGES
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "start new thread" in str(error)
    )


def limit_reached(error: BaseException, stack_bytes: int = 0) -> str:
    """The limit behind this error, and how to raise it.

    `stack_bytes` is the stack that a thread which could not be started would have had.
    """
    code = error.errno if isinstance(error, OSError) else None
    if code == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"the limit on open files is {limit}; raise it (ulimit -n)"
    if code == errno.ENFILE:
        return "the machine has reached its limit on open files; raise the sysctl fs.file-max"
    if code == errno.ENOSPC:
        return "the limit on epoll watches is reached; raise the sysctl fs.epoll.max_user_watches"
    if address_space := _address_space(stack_bytes or _DEFAULT_STACK_BYTES):
        return address_space
    if isinstance(error, RuntimeError):
        return _processes()
    return "the machine is out of memory; free some"


def _address_space(needed_bytes: int) -> str:
    """The message if there is a limit on it that `needed_bytes` more would exceed; else empty."""
    used_bytes = _used_bytes()
    for kind, name, remedy in (
        (resource.RLIMIT_AS, "address space", "ulimit -v"),
        (resource.RLIMIT_DATA, "data", "ulimit -d"),
    ):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY and used_bytes + needed_bytes > limit:
            return f"the limit on {name} is {limit >> 20} MB; raise it ({remedy})"
    return ""


def _used_bytes() -> int:
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            return int(file.read().split()[0]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return 0


def _processes() -> str:
    limit, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    groups = _control_group_limit()
    if limit != resource.RLIM_INFINITY and os.geteuid() and not 0 < groups < limit:
        return f"the limit on processes and threads is {limit}; raise it (ulimit -u)"
    if groups:
        return f"the limit on threads of the control group is {groups}; raise it (pids.max)"
    return "the system cannot start more threads; raise kernel.threads-max or vm.max_map_count"


def _control_group_limit() -> int:
    """`pids.max` of this process's control group; 0 if there is none."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        group = next(line.rpartition(":")[2] for line in lines if ":pids:" in line or "::" in line)
        for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/pids"):
            found = Path(f"{root}{group.rstrip('/')}/pids.max")
            if found.exists():
                return int(found.read_text())
    except (OSError, ValueError, StopIteration):
        pass
    return 0
