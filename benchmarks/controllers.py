"""Are the controllers as good as the best sizes found by hand?

`wrk` with 1,000 connections on one cached page: `seda` with its controllers,
and with fixed batches and pools, controllers off.
"""

from __future__ import annotations

import shutil
import statistics
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.tables import show
from benchmarks.web import Servers, measure, ours

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

CONNECTIONS = 1000
BATCHES = (16, 64, 256, 1024)
POOLS = {"1": "", "2": "parse=2,route=2,lookup=2,respond=2,write=2"}
OFF = "--no-pool-controller --no-batch-controller --no-admission-controller"
WITH = "with its controllers"


def main(effort: Effort) -> None:
    if not shutil.which("wrk"):
        print("wrk is not installed: nothing to measure with (Debian package wrk)")
        return
    lines = {WITH: "seda --service web"}
    for batch in BATCHES:
        for size, threads in POOLS.items():
            more = f" --threads {threads}" if threads else ""
            lines[f"batch {batch}, pools of {size}"] = (
                f"seda --service web {OFF} --batch {batch}{more}"
            )
    servers: Servers = {
        name: lambda folder, line=line: ours(line, folder)  # type: ignore[misc]
        for name, line in lines.items()
    }
    found = measure(servers, (CONNECTIONS,), effort)
    middle = {name: statistics.median(found[name, CONNECTIONS]) for name in servers}
    best = max((name for name in middle if name != WITH), key=lambda name: middle[name])
    table = Table(title=f"seda, {CONNECTIONS} connections: thousand requests/s, median (range)")
    for name in ("sizes", "rate", "of the best fixed"):
        table.add_column(name, justify="left" if name == "sizes" else "right")
    for name, value in sorted(middle.items(), key=lambda item: -item[1]):
        values = found[name, CONNECTIONS]
        rate = f"{value / 1e3:.1f} ({min(values) / 1e3:.1f}-{max(values) / 1e3:.1f})"
        table.add_row(name, rate, f"{value / middle[best]:.3f}")
    show(table, 100)
