"""What a server uses that may be many processes: nginx and Apache httpd fork workers.

`pid` is the `pid` that the server announced; it and all its descendants count.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import psutil

from sedabench.machine.process import ChildError, cpu_clock

_PSS = re.compile(r"^Pss:\s+(\d+) kB$", re.MULTILINE)


def tree(pid: int) -> list[psutil.Process]:
    """The process and everything that descends from it, as of now.

    Raises:
        ChildError: it has ended.
    """
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        raise ChildError("the server ended during the trial") from None


def tree_cpu_ns(pid: int) -> int:
    """CPU time in ns: of the living by their own clocks, of the dead as their parents waited.

    A worker that ends between two readings costs nothing but precision: its
    time moves to its parent's account, which is in ticks of 10 ms.
    """
    total_ns = 0
    for process in tree(pid):
        try:
            waited = process.cpu_times()
            total_ns += time.clock_gettime_ns(cpu_clock(process.pid))
        except (psutil.Error, OSError):  # it ended meanwhile
            continue
        total_ns += int((waited.children_user + waited.children_system) * 1e9)
    return total_ns


def tree_rss_bytes(pid: int) -> int:
    """Resident memory; a page that several processes share counts once.

    Forked workers share most of theirs: the sum of their RSS would count it
    once a worker.  The kernel's PSS splits a page among those who map it.
    """
    return sum(map(_resident_bytes, tree(pid)))


def _resident_bytes(process: psutil.Process) -> int:
    try:
        found = _PSS.search(Path(f"/proc/{process.pid}/smaps_rollup").read_text())
        if found:
            return int(found[1]) * 1024
    except OSError:  # it ended meanwhile, or belongs to another user
        pass
    try:
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0


def tree_threads(pid: int) -> int:
    """How many threads the server has, over all its processes."""
    total = 0
    for process in tree(pid):
        try:
            total += process.num_threads()
        except psutil.Error:
            continue
    return total
