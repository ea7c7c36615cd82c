"""The HTTP load generator beside `wrk`, `wrk2` and Locust, all against one worker of nginx.

Server and load generator have a core each.  The page is 1 KB, in nginx's cache.
Errors of percentiles are against the server with known delays
(`sedabench/calibration/known_delays.py`).
"""

from __future__ import annotations

import json
import random
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.table import Table

from benchmarks.processes import CLIENT_CORE, run_client
from benchmarks.tables import show
from benchmarks.web import PAGE, nginx, wrk
from sedabench import scratch
from sedabench.calibration.measure import FULL, Bench
from sedabench.machine.facts import choose_cores
from sedabench.machine.process import finish
from sedabench.progress import Progress

if TYPE_CHECKING:
    from benchmarks.__main__ import Effort

LEVELS = (64, 1000)
RATES = (1_000, 20_000, 50_000, 80_000)
CONNECTIONS = 64
KNOWN_S = 5.0
LOCUSTFILE = f"""
from locust import FastHttpUser, constant, task

class Reader(FastHttpUser):
    wait_time = constant(0)

    @task
    def read(self):
        self.client.get("/{PAGE}")
"""
WRK2_UNITS_US = {"us": 1.0, "ms": 1e3, "s": 1e6}


def http(port: int, seconds: float, *options: object) -> dict[str, Any]:
    """The result of `sedabench load http`; a server too slow for a rate shows as not answered."""
    command = [
        sys.executable, "-P", "-m", "loadgen", "http", "--json", "--spin",
        "--target", f"http://127.0.0.1:{port}/{PAGE}",
        "--duration", str(seconds), "--warmup", "0.5", *map(str, options),
    ]  # fmt: skip
    found = run_client(command, timeout_s=seconds + 60)
    if found["errors"]["wrong"] or found["errors"]["connection"]:
        raise SystemExit(f"error: the load generator reports {found['errors']}")
    return found


def wrk2(port: int, seconds: float, rate: int) -> float:
    """Its median latency, in us: from the time at which a request was due."""
    command = [
        "wrk2", "-t1", f"-c{CONNECTIONS}", f"-d{max(2, round(seconds))}s", f"-R{rate}", "--latency",
        f"http://127.0.0.1:{port}/{PAGE}",
    ]  # fmt: skip
    done = finish(command, cores=CLIENT_CORE, capture_output=True, text=True, check=True)
    found = re.search(r"50\.000%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert found is not None, done.stdout
    return float(found[1]) * WRK2_UNITS_US[found[2]]


def locust(port: int, seconds: float) -> float:
    """Requests/s of one process with 64 FastHttpUsers, counted once all have been spawned."""
    with scratch.folder() as folder:
        file = folder / "locustfile.py"
        file.write_text(LOCUSTFILE)
        command = [
            sys.executable, "-m", "locust", "--locustfile", str(file), "--headless", "--json",
            "--skip-log", "--reset-stats", "--users", str(CONNECTIONS), "--spawn-rate", "1000",
            "--run-time", f"{round(seconds) + 2}s", "--host", f"http://127.0.0.1:{port}",
        ]  # fmt: skip
        done = finish(
            command, cores=CLIENT_CORE, capture_output=True, text=True, timeout=seconds + 60,
            check=False,
        )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"error: locust failed: {done.stderr.strip()[-300:]}")
    (entry,) = json.loads(done.stdout)
    if entry["num_failures"]:
        raise SystemExit(f"error: {entry['num_failures']} requests of locust failed")
    return float(entry["num_requests"] / (entry["last_request_timestamp"] - entry["start_time"]))


Found = dict[tuple[str, object], list[Any]]


def measure(effort: Effort, tools: set[str]) -> Found:
    """Everything against nginx, taking turns in a random order, each turn a fresh nginx."""
    turns: list[tuple[str, object]] = [("ours", level) for level in LEVELS]
    turns += [(kind, rate) for kind in ("constant", "poisson") for rate in RATES]
    turns += [("wrk", level) for level in LEVELS] if "wrk" in tools else []
    turns += [("wrk2", rate) for rate in RATES] if "wrk2" in tools else []
    turns += [("locust", CONNECTIONS)]
    seconds = effort.seconds
    how: dict[str, Callable[[int, Any], Any]] = {
        "ours": lambda port, n: http(port, seconds, "--connections", n)["throughput_rps"],
        "wrk": lambda port, n: wrk(port, n, seconds),
        "wrk2": lambda port, rate: wrk2(port, seconds, rate),
        "locust": lambda port, _: locust(port, seconds),
    }
    for kind in ("constant", "poisson"):
        how[kind] = lambda port, rate, kind=kind: http(  # type: ignore[misc]
            port, seconds, "--rate", rate, "--arrivals", kind, "--connections", CONNECTIONS
        )
    found: Found = {}
    order = random.Random(1)
    with scratch.folder() as folder:
        folder.chmod(0o755)
        (folder / PAGE).write_bytes(b"<!doctype html>\n".ljust(1024, b"x"))
        for _ in range(effort.rounds):
            order.shuffle(turns)
            for tool, level in turns:
                with nginx(folder) as port:
                    found.setdefault((tool, level), []).append(how[tool](port, level))
    return found


def main(effort: Effort) -> None:
    if shutil.which("nginx"):
        packages = {"wrk": "Debian package wrk", "wrk2": "github.com/giltene/wrk2"}
        tools = {tool for tool in packages if shutil.which(tool)}
        for tool in sorted(packages.keys() - tools):
            print(f"{tool} is not installed: no comparison with it ({packages[tool]})")
        found = measure(effort, tools)
        show(_closed(found), 150)
        show(_open(found), 150)
    else:
        print("nginx is not installed: nothing to send load to (Debian package nginx-light)")
    show(_known(effort), 150)


def _closed(found: Found) -> Table:
    table = Table(title="closed loop, thousand requests/s, median (range)")
    for name in ("connections", "ours", "wrk -t1", "ours / wrk", "locust", "ours / locust"):
        table.add_column(name, justify="right")
    for level in LEVELS:
        ours, theirs = found["ours", level], found.get(("wrk", level), [])
        users = found.get(("locust", level), [])
        table.add_row(
            str(level), _cell(ours, 1e3), _cell(theirs, 1e3), _ratio(ours, theirs),
            _cell(users, 1e3), _ratio(ours, users),
        )  # fmt: skip
    return table


def _open(found: Found) -> Table:
    table = Table(title=f"open loop, {CONNECTIONS} connections, median (range)")
    for name in (
        "arrivals", "rate", "sent", "answered", "send lag p50, us", "send lag p99, us",
        "latency p50, us", "wrk2 p50, us", "ours / wrk2", "busy",
    ):  # fmt: skip
        table.add_column(name, justify="right")
    for kind in ("constant", "poisson"):
        for rate in RATES:
            runs = found[kind, rate]
            median_us = [run["latency_us"]["p50"] for run in runs]
            theirs = found.get(("wrk2", rate), [])
            table.add_row(
                kind, f"{rate:,}",
                *(
                    f"{statistics.median(run[what] / run['scheduled'] for run in runs):.2%}"
                    for what in ("sent", "answered")
                ),
                _cell([run["send_lag_us"]["p50"] for run in runs]),
                _cell([run["send_lag_us"]["p99"] for run in runs]),
                _cell(median_us), _cell(theirs), _ratio(median_us, theirs),
                f"{statistics.median(run['client_busy'] for run in runs):.0%}",
            )  # fmt: skip
    return table


def _known(effort: Effort) -> Table:
    bench = Bench(replace(FULL, known_s=max(KNOWN_S, effort.seconds)), choose_cores(), Progress())
    table = Table(title="known delays, us: measured less true, median (range)")
    for name in ("rate", "percentile", "true", "error", "share of the true", "within 2 % or 50 us"):
        table.add_column(name, justify="right")
    runs = [
        (rate, [bench.known_delays(rate)["percentiles"] for _ in range(effort.rounds)])
        for rate in FULL.known_rates_rps
    ]
    for rate, rounds in runs:
        for name in rounds[0]:
            rows = [percentiles[name] for percentiles in rounds]
            table.add_row(
                f"{rate:,}", name, _cell([row["true_us"] for row in rows]),
                _cell([row["error_us"] for row in rows]),
                f"{statistics.median(row['error_us'] / row['true_us'] for row in rows):+.2%}",
                f"{sum(row['within'] for row in rows)} of {len(rows)}",
            )  # fmt: skip
    return table


def _ratio(over: Sequence[float], under: Sequence[float]) -> str:
    if not under:
        return ""
    return f"{statistics.median(over) / statistics.median(under):.3f}"


def _cell(values: Sequence[float], unit: float = 1.0) -> str:
    if not values:
        return ""
    low, middle, high = min(values) / unit, statistics.median(values) / unit, max(values) / unit
    return f"{middle:,.1f} ({low:,.1f}-{high:,.1f})"
