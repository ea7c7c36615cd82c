"""Bursts of 8-KB packets, beside `iperf3 -l 8K` with as many streams.

iperf3 is the reference for what this machine's kernel moves over loopback
between one sending and one receiving thread, each on a core of its own.
"""

from __future__ import annotations

import random
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.processes import CLIENT_CORE, SERVER_CORE, load_burst, run_client, served
from benchmarks.tables import show
from sedabench.machine.process import Child

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

LEVELS = (1, 16, 64, 256, 1024)
IPERF3_LEVELS = (1, 16, 64)  # iperf3 takes 128 streams at most
IPERF3_PORT = 5299
SERVERS = ("eventloop", "seda", "threaded --writers 120 --blocking-writers")


def ours(options: str, connections: int, seconds: float) -> float:
    """Gbit/s."""
    with served(options) as server:
        found = load_burst(server, connections, seconds)
    if not found["valid"]:
        raise SystemExit(f"error: not valid: {found['invalid_reasons']}")
    return float(found["bandwidth_bps"]) / 1e9


def iperf3(connections: int, seconds: float) -> float:
    """Gbit/s, as its receiver counts them."""
    port = str(IPERF3_PORT)
    listen = ["iperf3", "--server", "--one-off", "--bind", "127.0.0.1", "--port", port]
    with Child("iperf3", listen, cores=SERVER_CORE):
        deadline = time.monotonic() + 5
        while not _listens(IPERF3_PORT) and time.monotonic() < deadline:
            time.sleep(0.01)
        found = run_client(
            [
                "iperf3", "--client", "127.0.0.1", "--port", port, "--length", "8K", "--json",
                "--parallel", str(connections), "--time", str(max(1, round(seconds))),
                "--omit", "1",
            ],
            timeout_s=seconds + 30,
        )  # fmt: skip
    return float(found["end"]["sum_received"]["bits_per_second"]) / 1e9


def _listens(port: int) -> bool:
    """Whether somebody listens on it: asked of the kernel, since iperf3 counts a connection."""
    with open("/proc/net/tcp") as table:  # noqa: PTH123
        return any(f":{port:04X} 00000000:0000 0A" in line for line in table)


def main(effort: Effort) -> None:
    runners: dict[str, Callable[[int, float], float]] = {
        options: lambda n, s, options=options: ours(options, n, s)  # type: ignore[misc]
        for options in SERVERS
    }
    if shutil.which("iperf3"):
        runners = {"iperf3": iperf3, **runners}
        version = subprocess.run(["iperf3", "--version"], capture_output=True, text=True)
        print(version.stdout.splitlines()[0], f"server core {SERVER_CORE}, client {CLIENT_CORE}")
    else:
        print("iperf3 is not installed: no comparison with it (Debian package iperf3)")
    found: dict[tuple[str, int], list[float]] = {}
    order = random.Random(1)
    turns = [(r, n) for r in runners for n in LEVELS if r != "iperf3" or n in IPERF3_LEVELS]
    for _ in range(effort.rounds):
        order.shuffle(turns)
        for runner, connections in turns:
            gbps = runners[runner](connections, effort.seconds)
            found.setdefault((runner, connections), []).append(gbps)
    _show(found, list(runners))


def _show(found: dict[tuple[str, int], list[float]], names: list[str]) -> None:
    table = Table(title="Gbit/s, median (range)")
    table.add_column("connections", justify="right")
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("eventloop / iperf3", justify="right")
    table.add_column("seda / eventloop", justify="right")
    for level in LEVELS:
        cells = []
        middle = {}
        for name in names:
            values = found.get((name, level))
            if values:
                middle[name] = statistics.median(values)
                cells.append(f"{middle[name]:.2f} ({min(values):.2f}-{max(values):.2f})")
            else:
                cells.append("")
        against = f"{middle['eventloop'] / middle['iperf3']:.3f}" if "iperf3" in middle else ""
        table.add_row(str(level), *cells, against, f"{middle['seda'] / middle['eventloop']:.3f}")
    show(table, 150)
