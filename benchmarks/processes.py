"""Server and client of a benchmark: started, pinned, stopped."""

from __future__ import annotations

import json
import os
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sedabench.machine.process import Child, finish

START_S = 10.0
CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, CLIENT_CORE = {CORES[0]}, {CORES[-1]}


class Server:
    """A `python -m servers` that serves, and what it says about itself."""

    def __init__(self, child: Child, announcement: dict[str, Any]) -> None:
        self.pid = child.pid
        self.port: int = announcement["port"]
        self._stats_url = f"http://127.0.0.1:{announcement['admin_port']}/stats"

    def stats(self) -> dict[str, Any]:
        with urllib.request.urlopen(self._stats_url, timeout=60) as reply:
            found: dict[str, Any] = json.load(reply)
        return found

    def resident_kb(self) -> int:
        with open(f"/proc/{self.pid}/status") as status:  # noqa: PTH123
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@contextmanager
def served(options: str) -> Iterator[Server]:
    """A server for the length of the block, e.g. `served("threaded --writers 16")`."""
    command = [sys.executable, "-m", "servers", *options.split(), "--port=0", "--admin-port=0"]
    with Child("server", command, cores=SERVER_CORE) as child:
        deadline_ns = time.monotonic_ns() + int(START_S * 1e9)
        yield Server(child, child.next_message(deadline_ns, "start"))


def run_client(command: list[str], timeout_s: float) -> dict[str, Any]:
    """Run a client on its own core; return the JSON that it prints."""
    done = finish(
        command, cores=CLIENT_CORE, capture_output=True, text=True, timeout=timeout_s, check=False
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"error: {command[0]} failed: {(done.stderr or done.stdout).strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def load_burst(server: Server, connections: int, seconds: float, *more: str) -> dict[str, Any]:
    """The result of `sedabench load burst` against `server`."""
    return run_client(
        [
            sys.executable, "-m", "loadgen", "burst", "--target", f"127.0.0.1:{server.port}",
            "--connections", str(connections), "--duration", str(seconds), "--json", *more,
        ],
        timeout_s=seconds + 120,
    )  # fmt: skip
