"""How far the instrument can be trusted on this machine: measured, kept, and asked later.

Five questions, each answered by the load generator as trials start it, a
process pinned to the client's core, beside a server on the server's core:

- What does a look at the clock cost, and how long does the machine take this
  core away from a process that never sleeps?
- How much does the loopback carry, through our burst load and event loop?
- How many requests/s does a closed loop drive?
- At which rates does an open loop keep its schedule, and how late is it?  The
  peer is the fastest server here, for one that is slow proves nothing.
- How far are its percentiles from the truth, where the truth is known
  (`known_delays.py`)?  Both sides look at the same requests, so a difference is
  an error of measurement and never one of sampling.

And one demonstration: what a closed and an open loop say of a server that
stalls.  Where the result is kept, and who asks it: `calibration.py`.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sedabench import scratch
from sedabench.calibration.known_delays import read_log
from sedabench.calibration.record import SCHEMA, Facts
from sedabench.errors import UserError
from sedabench.machine import facts as machine
from sedabench.machine.process import Child, ChildError
from sedabench.progress import Progress
from sedabench.results.folder import utc_now
from sedabench.targets.external import available, load_external, start_external
from sedabench.trials.trial import after

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

START_S = 20.0
LATE_US = 1000.0
"""Send lag (99th percentile) above which a rate is not driven: as `valid` of a result has it."""
SATURATED = 0.95
KEPT_UP = 0.99
"""Share of the offered rate that must be answered in the window for it to count as driven."""
ERROR_US, ERROR_SHARE = 50.0, 0.02
"""The larger of the two is the error that a percentile may have."""
PER_MILLE = {"p50": 500, "p90": 900, "p99": 990, "p999": 999}
BURST_CONNECTIONS = 16
STALL_MS, STALL_DELAY_US, STALL_CONNECTIONS = 200, 500, 2
HICCUP_NS = 100_000
BUSY_SHARE = 0.01
"""Of its core's time that a process may lose to others before a calibration is doubted."""


@dataclass(frozen=True)
class Effort:
    """How much to measure.  Seconds are of one window."""

    name: str
    clock_s: float
    window_s: float
    warmup_s: float
    known_s: float
    connections: tuple[int, ...]
    rates_rps: tuple[int, ...]
    known_rates_rps: tuple[int, ...] = (1_000, 10_000)
    demonstrate: bool = True


FULL = Effort(
    "full", 1.0, 2.0, 0.5, 8.0, (64, 1000),
    (1_000, 5_000, 10_000, 20_000, 40_000, 60_000, 80_000, 100_000, 120_000, 140_000, 160_000),
)  # fmt: skip
QUICK = Effort(
    "quick", 0.3, 1.0, 0.2, 2.0, (64,), (20_000, 50_000, 80_000, 100_000), demonstrate=False
)


def calibrate(effort: Effort, progress: Progress) -> Facts:
    """Measure everything; the result is ready for `keep`.

    Raises:
        UserError: a process could not be started or ended early.
    """
    began = time.monotonic()
    cores = machine.choose_cores()
    found: Facts = {
        "schema": SCHEMA,
        "measured_utc": utc_now(),
        "effort": effort.name,
        "machine": machine.facts(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "versions": machine.versions(),
        "git": machine.git_state(),
        "cores": {"server": list(cores.server), "client": list(cores.client)},
        "warnings": [cores.warning] if cores.warning else [],
    }
    bench = Bench(effort, cores, progress)
    try:
        found["clock"] = clock = bench.clock()
        if clock["hiccup_share"] > BUSY_SHARE:
            found["warnings"].append(
                f"the machine was busy: it took {clock['hiccup_share']:.1%} of the core away"
            )
            progress.say(f"warning: {found['warnings'][-1]}")
        found["loopback"] = bench.loopback()
        found["peers"] = bench.peers
        found["closed_loop"] = bench.closed_loop()
        best = max(found["closed_loop"], key=lambda row: row["rps"])
        found["closed_loop_rps"] = best["rps"]
        found["open_loop"] = bench.open_loop(best["peer"])
        driven = [row["rate_rps"] for row in found["open_loop"] if not row["limit"]]
        found["open_loop_rps"] = max(driven, default=None)
        found["known_delays"] = [bench.errors(rate) for rate in effort.known_rates_rps]
        found["warnings"] += [
            f"percentiles at {run['rate_rps']:,}/s are off by more than 2 % and 50 us"
            for run in found["known_delays"]
            if not run["within"]
        ]
        found["stall"] = bench.stall() if effort.demonstrate else None
    except ChildError as error:
        raise UserError(f"calibration failed: {error}") from None
    found["took_s"] = round(time.monotonic() - began, 1)
    return found


class Bench:
    """The measurements, each a method that returns plain numbers."""

    def __init__(self, effort: Effort, cores: machine.Cores, progress: Progress) -> None:
        self.effort = effort
        self.cores = cores
        self.say = progress.say
        self.spin = "--spin" if cores.client != cores.server else "--no-spin"
        nginx = available(load_external()).get("nginx")
        self.peers: dict[str, str | None] = {"eventloop": None}
        if nginx is not None:
            self.peers["nginx"] = nginx.version()
        self._nginx = nginx

    def clock(self) -> Facts:
        """Cost of a look at the clock, and what a process that never sleeps misses."""
        self.say("clock: cost of a look, and time that the machine takes away")
        usable = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self.cores.client)
        try:
            return clock_facts(self.effort.clock_s)
        finally:
            os.sched_setaffinity(0, usable)

    def loopback(self) -> Facts:
        self.say(f"loopback: bursts over {BURST_CONNECTIONS} connections")
        with self._ours("burst") as (host, port):
            result = self._load(
                "burst", f"{host}:{port}", self.effort.window_s,
                "--connections", BURST_CONNECTIONS,
            )  # fmt: skip
        return {"bandwidth_bps": result["bandwidth_bps"], "connections": BURST_CONNECTIONS}

    def closed_loop(self) -> list[Facts]:
        rows = []
        for peer in self.peers:
            for connections in self.effort.connections:
                with self._peer(peer) as url:
                    result = self._http(url, self.effort.window_s, "--connections", connections)
                row = {
                    "peer": peer,
                    "connections": connections,
                    "rps": result["throughput_rps"],
                    "latency_p50_us": result["latency_us"]["p50"],
                    "latency_p99_us": result["latency_us"]["p99"],
                }
                self.say(f"closed loop: {connections} connections, {peer}: {row['rps']:,.0f}/s")
                rows.append(row)
        return rows

    def open_loop(self, peer: str) -> list[Facts]:
        """Rates upwards, until two in a row are not driven; each gets a second chance."""
        rows: list[Facts] = []
        for rate in self.effort.rates_rps:
            row = self._open(peer, rate)
            if row["limit"]:
                again = self._open(peer, rate)
                row = min(row, again, key=lambda one: (bool(one["limit"]), one["lag_p99_us"]))
            rows.append(row)
            if len(rows) > 1 and rows[-1]["limit"] and rows[-2]["limit"]:
                break
        return rows

    def _open(self, peer: str, rate: int) -> Facts:
        with self._peer(peer) as url:
            result = self._http(url, self.effort.window_s, "--connections", 64, "--rate", rate)
        row = {
            "peer": peer,
            "rate_rps": rate,
            "sent_share": result["sent"] / result["scheduled"],
            "kept_up_share": result["throughput_rps"] / result["offered_rps"],
            "lag_p50_us": result["send_lag_us"]["p50"],
            "lag_p99_us": result["send_lag_us"]["p99"],
            "lag_max_us": result["send_lag_us"]["max"],
            "latency_p50_us": result["latency_us"]["p50"],
            "latency_p99_us": result["latency_us"]["p99"],
            "client_busy": result["client_busy"],
        }
        row["limit"] = _limit(row)
        self.say(
            f"open loop: {rate:,}/s, {peer}: lag p50 {row['lag_p50_us']:.1f} us, "
            f"p99 {row['lag_p99_us']:.0f} us" + (f"  ({row['limit']})" if row["limit"] else "")
        )
        return row

    def errors(self, rate: int) -> Facts:
        """Known delays; once more when they are off, for a disturbance can only add."""
        tries = [self.known_delays(rate)]
        if not tries[0]["within"]:
            tries.append(self.known_delays(rate))
        best = min(
            tries, key=lambda run: (not run["within"], run["percentiles"]["p50"]["error_us"])
        )
        return {**best, "tries": len(tries)}

    def known_delays(self, rate: int) -> Facts:
        """Measured percentiles beside true ones, of the same requests."""
        result, log = self._delayed((), self.effort.known_s, "--connections", 128, "--rate", rate)
        scheduled: int = result["scheduled"]
        if result["answered"] != scheduled or len(log) < scheduled:
            raise UserError(
                f"calibration failed: {result['answered']} of {scheduled} requests with known "
                "delays were answered; free the machine from other load and try again"
            )
        window = log[-scheduled:]  # nothing is scheduled after the window
        true_us = percentiles_us(window[:, 1] - window[:, 0])
        late_us = percentiles_us(window[:, 1] - window[:, 0] - window[:, 2])
        rows = {}
        for name, true in true_us.items():
            measured = result["service_latency_us"][name]
            error = measured - true
            rows[name] = {
                "true_us": true,
                "measured_us": measured,
                "error_us": error,
                "within": abs(error) <= max(ERROR_US, ERROR_SHARE * true),
            }
        errors = ", ".join(f"{name} {row['error_us']:+.0f} us" for name, row in rows.items())
        self.say(f"known delays: {rate:,}/s, measured less true: {errors}")
        return {
            "rate_rps": rate,
            "requests": scheduled,
            "percentiles": rows,
            "within": all(row["within"] for row in rows.values()),
            "server_late_p50_us": late_us["p50"],
            "server_late_p99_us": late_us["p99"],
            "send_lag_p99_us": result["send_lag_us"]["p99"],
        }

    def stall(self) -> Facts:
        """A server that does nothing for 200 ms of each second, in a closed and an open loop."""
        server = ("--stall-ms", str(STALL_MS), "--delay-us", str(STALL_DELAY_US))
        seconds = max(4.0, self.effort.window_s)
        closed, _ = self._delayed(server, seconds, "--connections", STALL_CONNECTIONS)
        rate = round(closed["throughput_rps"])
        opened, _ = self._delayed(server, seconds, "--connections", 128, "--rate", rate)
        self.say(
            f"stall of {STALL_MS} ms a second: p99 {closed['latency_us']['p99'] / 1e3:.1f} ms in a "
            f"closed loop, {opened['latency_us']['p99'] / 1e3:.1f} ms in an open one"
        )
        return {
            "stall_ms": STALL_MS,
            "delay_us": STALL_DELAY_US,
            "rate_rps": rate,
            "closed_connections": STALL_CONNECTIONS,
            "closed_latency_us": closed["latency_us"],
            "open_latency_us": opened["latency_us"],
            "theory_latency_us": {
                name: stalled_us(share / 1000, STALL_MS * 1e3, STALL_DELAY_US)
                for name, share in PER_MILLE.items()
            },
        }

    # Processes

    def _delayed(
        self, server: tuple[str, ...], seconds: float, *options: object
    ) -> tuple[Facts, NDArray[np.int64]]:
        """The result of a load on the server with known delays, and that server's log."""
        with scratch.folder() as folder:
            log = folder / "log"
            command = [
                sys.executable, "-P", "-m", "sedabench.calibration.known_delays",
                "--log", str(log), self.spin, *server,
            ]  # fmt: skip
            with Child("the server with known delays", command, cores=self.cores.server) as child:
                at = child.next_message(after(START_S), "start")
                result = self._http(f"http://{at['host']}:{at['port']}/", seconds, *options)
            return result, read_log(log)

    def _http(self, url: str, seconds: float, *options: object) -> Facts:
        return self._load("http", url, seconds, self.spin, *options)

    def _load(self, workload: str, target: str, seconds: float, *options: object) -> Facts:
        command = [
            sys.executable, "-P", "-m", "loadgen", workload, "--target", target, "--json",
            "--duration", str(seconds), "--warmup", str(self.effort.warmup_s),
            *map(str, options),
        ]  # fmt: skip
        with Child("the load generator", command, cores=self.cores.client) as client:
            return client.next_message(after(START_S + 3 * seconds), "end")

    @contextmanager
    def _ours(self, service: str) -> Iterator[tuple[str, int]]:
        command = [
            sys.executable, "-P", "-m", "servers", "eventloop", "--service", service,
            "--host", "127.0.0.1", "--port", "0",
        ]  # fmt: skip
        with Child("eventloop", command, cores=self.cores.server) as server:
            announced = server.next_message(after(START_S), "start")
            yield announced["host"], announced["port"]

    @contextmanager
    def _peer(self, name: str) -> Iterator[str]:
        """A fast server for the length of the block; the URL of a small page."""
        if name == "eventloop":
            with self._ours("web") as (host, port):
                yield f"http://{host}:{port}/healthz"
            return
        assert self._nginx is not None
        with scratch.folder() as folder:
            folder.chmod(0o755)
            for page in ("docroot.json", "healthz"):  # it is ready when it has the first
                (folder / page).write_text("{}\n")
            with start_external(self._nginx, folder, self.cores.server, connections=1000) as server:
                at = server.next_message(after(START_S), "start")
                yield f"http://{at['host']}:{at['port']}/healthz"


def _limit(row: Mapping[str, Any]) -> str:
    """Why a rate does not count as driven; empty when it does."""
    if row["lag_p99_us"] > LATE_US:
        return "requests were sent late"
    if row["client_busy"] > SATURATED:
        return "the load generator's core was saturated"
    if row["kept_up_share"] < KEPT_UP:
        return f"answered in time: {row['kept_up_share']:.1%}"
    return ""


def clock_facts(seconds: float) -> Facts:
    """Look at the clock for so long: cost of a look, and every gap over 100 us."""
    clock = time.monotonic_ns
    looks = 20_000
    costs = []
    for _ in range(10):
        began = clock()
        for _ in range(looks):
            clock()
        costs.append((clock() - began) / looks)
    longest = hiccups = lost = 0
    began = last = clock()
    end = began + int(seconds * 1e9)
    while last < end:
        now = clock()
        gap = now - last
        last = now
        if gap > HICCUP_NS:
            hiccups += 1
            lost += gap
            longest = max(longest, gap)
    return {
        "cost_ns": min(costs),
        "resolution_ns": time.get_clock_info("monotonic").resolution * 1e9,
        "watched_s": seconds,
        "hiccups": hiccups,
        "hiccup_longest_us": longest / 1e3,
        "hiccup_share": lost / (last - began),
    }


def percentiles_us(values_ns: NDArray[np.int64]) -> dict[str, float]:
    """By nearest rank, as the load generator's own: each is a value that occurred."""
    import numpy as np

    ordered = np.sort(values_ns)
    return {
        name: float(ordered[-(-len(ordered) * share // 1000) - 1]) / 1e3
        for name, share in PER_MILLE.items()
    }


def stalled_us(quantile: float, stall_us: float, delay_us: float) -> float:
    """The quantile of an open loop's latency when a server stalls at the begin of every second.

    A request that falls into the stall waits for its end: the share of those
    that wait longer than x is (stall - x) / 1 s.  What is left over after the
    stall is served in no time.
    """
    return max(0.0, stall_us - (1 - quantile) * 1e6) + delay_us
