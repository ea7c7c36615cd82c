"""What on this machine would spoil a measurement, why, and what to do about it.

One function a check; each reads the machine and returns a `Check`.  A new
check is a function and its name in `CHECKS`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sedabench.machine import facts as machine

if TYPE_CHECKING:
    from rich.table import Table

MOST_CONNECTIONS = 8192
"""The highest level of the full figure1: what the checks below measure against."""


@dataclass(frozen=True)
class Check:
    """What was found.  `advice` says why it spoils a measurement and what to do; empty when ok."""

    name: str
    found: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


def descriptors() -> Check:
    limit = machine.descriptor_limit()
    needed = MOST_CONNECTIONS + 64
    return Check(
        "descriptor limit", f"{limit} (hard)",
        "" if limit >= needed else
        f"a connection is a descriptor on each side; the full figure1 needs {needed}. "
        f"Raise the hard limit: 'ulimit -Hn {needed}' as root, or /etc/security/limits.conf",
    )  # fmt: skip


def somaxconn() -> Check:
    value = machine.sysctl("net.core.somaxconn")
    low = value is not None and int(value) < 1024
    return Check(
        "somaxconn", value or "unknown",
        "a short accept queue drops connections that come at once, and each waits a second for "
        "its retry. sysctl -w net.core.somaxconn=4096" if low else "",
    )  # fmt: skip


def cores() -> Check:
    physical = len(machine.physical_cores(os.sched_getaffinity(0)))
    usable = len(os.sched_getaffinity(0))
    return Check(
        "cores", f"{physical} physical, {usable} usable",
        "" if physical >= 2 else
        "server and load generator share a core, so each takes time from the other. "
        "Use a machine (or a CPU set) with at least two physical cores",
    )  # fmt: skip


def governor() -> Check:
    found = machine.governors()
    slow = [name for name in found if name != "performance"]
    return Check(
        "frequency governor", ", ".join(found) or "not visible",
        f"under {slow[0]!r} the clock follows the load, so the first trials are slower than the "
        "next. cpupower frequency-set -g performance" if slow else "",
    )  # fmt: skip


def load() -> Check:
    now = os.getloadavg()[0]
    return Check(
        "load", f"{now:.2f} over the last minute",
        "something else runs and takes time from server and client. Stop it, and wait a minute"
        if now > 0.5 else "",
    )  # fmt: skip


def memory() -> Check:
    available = machine.memory_bytes("MemAvailable")
    if available is None:
        return Check("memory", "unknown")
    return Check(
        "memory", f"{available / 2**30:.1f} GiB available",
        "thousands of connections take kernel buffers of up to some MB each; a machine that "
        "swaps measures its disk. Free memory, or measure fewer connections"
        if available < 2 * 2**30 else "",
    )  # fmt: skip


def ports() -> Check:
    low, high = machine.ephemeral_ports()
    count = high - low + 1
    return Check(
        "ephemeral ports", f"{count} ({low} to {high})",
        "" if count >= 2 * MOST_CONNECTIONS else
        "closed connections keep their port for a minute (TIME_WAIT), and the next trial may "
        'find none. sysctl -w net.ipv4.ip_local_port_range="1024 65535"',
    )  # fmt: skip


def tcp_memory() -> Check:
    value = machine.sysctl("net.ipv4.tcp_mem")
    if value is None:
        return Check("tcp_mem", "unknown")
    pressure = int(value.split()[1]) * os.sysconf("SC_PAGESIZE")
    return Check(
        "tcp_mem", f"pressure from {pressure / 2**30:.1f} GiB",
        "above it the kernel shrinks the buffers of every socket, and bandwidth falls for a "
        'reason that is not the server. sysctl -w net.ipv4.tcp_mem="524288 1048576 2097152"'
        if pressure < 2**30 else "",
    )  # fmt: skip


def clock() -> Check:
    source = machine.read("/sys/devices/system/clocksource/clocksource0/current_clocksource")
    began = time.perf_counter_ns()
    for _ in range(2000):
        time.monotonic_ns()
    cost_ns = (time.perf_counter_ns() - began) / 2000
    fast = source in (None, "tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
    return Check(
        "clock source", f"{source or 'unknown'}, {cost_ns:.0f} ns a reading",
        "" if fast and cost_ns < 1000 else
        "every time stamp is a slow system call, which takes time from what is measured. "
        "Choose tsc where the kernel offers it (clocksource=tsc)",
    )  # fmt: skip


def virtualisation() -> Check:
    kinds = {"VM": machine.virtual_machine(), "container": machine.container()}
    where = [f"{kind}: {name}" for kind, name in kinds.items() if name]
    fields: list[int] = [
        int(v) for v in (machine.read("/proc/stat") or "cpu 0").splitlines()[0].split()[1:9]
    ]
    total = sum(fields)
    stolen = fields[7] / total if len(fields) == 8 and total else 0.0
    return Check(
        "virtualisation", ", ".join([*where, f"steal {stolen:.1%} since boot"]),
        "the hypervisor gives these cores to others as well, and time taken in a window is "
        "missing in its result. Watch the column steal; prefer a dedicated host"
        if stolen > 0.005 else "",
    )  # fmt: skip


CHECKS: tuple[Callable[[], Check], ...] = (
    descriptors, somaxconn, cores, governor, load, memory, ports, tcp_memory, clock,
    virtualisation,
)  # fmt: skip


def examine() -> list[Check]:
    """Every check, in the order of `CHECKS`."""
    return [check() for check in CHECKS]


def table(checks: list[Check]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    made.add_column("check", no_wrap=True)
    made.add_column("status", no_wrap=True)
    made.add_column("found")
    made.add_column("why it matters, and what to do")
    for check in checks:
        status = Text("ok", "green") if check.ok else Text("warn", "bold yellow")
        made.add_row(check.name, status, check.found, check.advice)
    return made
