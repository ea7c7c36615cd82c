"""Many connections at once: do all live, and what does each cost in memory?

Memory is user space, from the process's resident set: with `connections` that
have all sent a part of a burst, less with one.  What the kernel keeps for a
connection is not in it, nor is that another for a thread.
"""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from rich.table import Table

from benchmarks.processes import Server, load_burst, served
from benchmarks.tables import show
from loadgen.net.limits import ensure_room_for

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

CASES = (
    ("eventloop", 8192, 4),
    ("seda", 8192, 4),
    ("threaded --writers 120 --blocking-writers", 4096, 32),
)
"""Options, connections, KB a connection that are to be kept under."""

PART_BYTES = 100_000
BURST_BYTES = 1000 * 8192


def kb_a_connection(server: Server, connections: int) -> float:
    """Resident KB that each of `connections` costs, once it has sent something."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        first.sendall(bytes(BURST_BYTES))
        first.recv(32)
        before_kb = server.resident_kb()
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(connections)
        ]
        part = bytes(PART_BYTES)
        for sock in sockets:
            sock.sendall(part)
        deadline = time.monotonic() + 60
        while server.stats()["bytes_in"] < BURST_BYTES + connections * PART_BYTES:
            if time.monotonic() > deadline:
                raise SystemExit(f"error: not all bytes arrived: {server.stats()}")
            time.sleep(0.1)
        return (server.resident_kb() - before_kb) / connections


def main(effort: Effort) -> None:
    ensure_room_for(max(connections for _, connections, _ in CASES))
    table = Table(title="many connections at once")
    for name in ("server", "connections", "KB a connection", "kept under", "errors", "Gbit/s"):
        table.add_column(name, justify="left" if name == "server" else "right")
    for options, connections, most_kb in CASES:
        with served(options) as server:
            kb = kb_a_connection(server, connections)
        with served(options) as server:
            found = load_burst(server, connections, effort.seconds, "--warmup", "3")
            stats = server.stats()
        errors = {k: n for k, n in found["errors"].items() if n} | {
            f"server {k}": n for k, n in stats["errors"].items() if n
        }
        if stats["connections"]["accepted"] < connections:
            errors["not accepted"] = connections - stats["connections"]["accepted"]
        table.add_row(
            options, str(connections), f"{kb:.1f}", f"{most_kb} KB", str(errors or "none"),
            f"{found['bandwidth_bps'] / 1e9:.1f}",
        )  # fmt: skip
    show(table, 150)
