"""What the driver reads of a running server from outside: its counters and its accounts.

A server that is not ours has no admin port: its counters are the clock and its
threads, and its accounts those of all its processes.

Nothing here waits without a limit, and nothing here judges.
"""

from __future__ import annotations

import http.client
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sedabench.machine.facts import Cores
from sedabench.machine.process import ChildError, cpu_clock
from sedabench.targets.external.tree import tree_cpu_ns, tree_rss_bytes, tree_threads

SNAPSHOT_S = 10.0
"""How long a server may take over /stats: one with thousands of threads is slow to answer."""


@dataclass(frozen=True)
class Edge:
    """What is read at one end of the window: first the accounts, then the counters.

    A server that is asked for too much may answer /stats seconds late; its
    accounts are of the right moment all the same.
    """

    time_ns: int
    """Of the accounts."""
    cpu_ns: int
    stolen: int
    busy: int
    ticks: int
    stats: dict[str, Any]
    """What /stats says; without an admin port, `time_ns` and `threads`."""


def read_edge(announced: Mapping[str, Any], cores: Cores) -> Edge:
    pid, port = announced["pid"], announced["admin_port"]
    time_ns = time.monotonic_ns()
    cpu_ns = _cpu_ns(pid) if port is not None else tree_cpu_ns(pid)
    ticks = _core_ticks({*cores.server, *cores.client})
    if port is None:
        stats = {"time_ns": time_ns, "threads": tree_threads(pid)}
    else:
        stats = _snapshot(announced["host"], port)
    return Edge(time_ns, cpu_ns, *ticks, stats)


def read_moment(host: str, port: int) -> dict[str, Any]:
    """What of /stats shows how a server copes: counts, queues, threads, batches, admission."""
    stats = _snapshot(host, port)
    return {
        "time_ns": stats["time_ns"],
        "requests": stats.get("requests"),
        "replies": stats.get("replies"),
        "rejected": stats.get("rejected"),
        "threads": stats["threads"],
        "connections": stats["connections"]["now"],
        "stages": [
            {name: stage.get(name) for name in ("name", "queue_length", "threads", "batch")}
            for stage in stats.get("stages", ())
        ],
        "admission": stats.get("admission"),
    }


def _snapshot(host: str, port: int) -> dict[str, Any]:
    connection = http.client.HTTPConnection(host, port, timeout=SNAPSHOT_S)
    try:
        connection.request("GET", "/stats")
        stats = json.loads(connection.getresponse().read())
        missing = {"time_ns", "bytes_in", "threads", "connections", "errors"} - set(stats)
    except (OSError, http.client.HTTPException, ValueError, TypeError) as error:
        raise ChildError(f"the server did not answer /stats: {error or type(error)}") from None
    finally:
        connection.close()
    if missing:
        raise ChildError(f"the server's /stats lacks {', '.join(sorted(missing))}")
    result: dict[str, Any] = stats
    return result


def _cpu_ns(pid: int) -> int:
    """CPU time of a whole process, in ns."""
    try:
        return time.clock_gettime_ns(cpu_clock(pid))
    except OSError:
        raise ChildError("the server ended during the trial") from None


def _core_ticks(cpus: set[int]) -> tuple[int, int, int]:
    """Stolen, busy and total time of these CPUs, in ticks (/proc/stat, proc(5))."""
    stolen = busy = total = 0
    names = {f"cpu{cpu}" for cpu in cpus}
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            # user nice system idle iowait irq softirq steal; guest time is within user time
            ticks = [int(value) for value in fields[:8]]
            total += sum(ticks)
            stolen += ticks[7]
            busy += sum(ticks[:3]) + sum(ticks[5:7])
    return stolen, busy, total


def rss_bytes(announced: Mapping[str, Any]) -> int | None:
    """Resident memory of a server; None when it has ended."""
    pid = announced["pid"]
    try:
        if announced["admin_port"] is None:
            return tree_rss_bytes(pid)
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ChildError):
        return None
    return pages * os.sysconf("SC_PAGESIZE")


def context_switches(pid: int) -> tuple[int, int, int]:
    """Time in ns, voluntary and involuntary switches, summed over the threads alive.

    /proc/PID/status (and psutil) count the main thread only.
    """
    voluntary = forced = 0
    for task in Path(f"/proc/{pid}/task").glob("*/status"):
        try:
            tail = task.read_text().rsplit("voluntary_ctxt_switches:", 2)
        except OSError:  # the thread ended
            continue
        voluntary += int(tail[1].split()[0])
        forced += int(tail[2])
    return time.monotonic_ns(), voluntary, forced
