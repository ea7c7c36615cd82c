"""One trial: one server, one workload, one level, one measured window.

    driver            server                     load generator
      start, pin  ->  {"port", "admin_port"}
      start, pin  ------------------------------>  connect all
                                                   {"event": "connected"}   warm-up begins
      context switches of all threads              (0.7 of the warm-up)
      GET /stats, CPU, steal  <------------------  {"event": "window_begin"}
      GET /stats, CPU, steal, RSS  <-------------  {"event": "window_end"}
      context switches of all threads              goes on sending for a while
                              <------------------  {"event": "result", "timeline"}
      stop both

The window belongs to the load generator: its counts are the result.  The
server's counts are the check.  Its two snapshots never fall exactly on the
window's ends (a process with thousands of threads may take a second to
answer), so each carries the server's own clock, and the client's bytes are
interpolated at those two instants: both sides are asked about the same
interval.

Whatever goes wrong in a trial becomes its `invalid_reason`; the run goes on.
"""

from __future__ import annotations

import os
import shlex
import time
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from sedabench.machine import Cores, Interpreter
from sedabench.process import Child, ChildError
from sedabench.readings import Edge, context_switches, read_edge, rss_bytes
from sedabench.results import Column, Value
from sedabench.servers_under_test import ServerSpec

TOLERANCE = 0.02
"""How far server and client may disagree about the bytes of one interval."""
READY_S = 20.0
"""How long a server may take to say that it is ready, or a client to start and end."""
CONNECT_S_PER_CONNECTION = 0.01
GRACE_S = 1

COLUMNS: tuple[Column, ...] = (
    Column("trial", "int", "", "number of the trial in the order in which trials ran, from 0"),
    Column("block", "int", "", "repeat: each block has every server at every level once"),
    Column("server", "str", "", "label of the server"),
    Column("architecture", "str", "", "who ran the steps"),
    Column("server_options", "str", "", "options of the server's command line"),
    Column("connections", "int", "", "connections asked for (the level)"),
    Column("connected", "int", "", "connections that were up when the warm-up began"),
    Column("started_utc", "str", "", "wall clock when the trial began"),
    Column("warmup_s", "float", "s", "time between the last connection and the window"),
    Column("duration_s", "float", "s", "length of the window, as measured"),
    Column("valid", "bool", "", "True when the trial passed every check"),
    Column("invalid_reason", "str", "", "the checks that failed, separated by ' | '"),
    Column("warnings", "str", "", "what is odd without making the trial invalid"),
    Column("bandwidth_bps", "float", "bit/s", "bytes * 8 / duration_s"),
    Column("bytes", "int", "B", "payload that the client handed to its sockets in the window"),
    Column("bursts", "int", "", "bursts acknowledged in the window"),
    Column("bursts_per_s", "float", "1/s", "bursts / duration_s"),
    Column("ack_p50_us", "float", "us", "median time from a burst's first byte to its ACK"),
    Column("ack_p90_us", "float", "us", "90th percentile of the same"),
    Column("ack_p99_us", "float", "us", "99th percentile of the same"),
    Column("ack_max_us", "float", "us", "largest of the same"),
    Column("ack_samples", "int", "", "bursts behind these percentiles; none: no percentiles"),
    Column("jain_fairness", "float", "", "Jain's index over the connections' bytes, 1/n to 1"),
    Column("client_errors", "str", "", "the client's errors, as kind=count"),
    Column("client_cpu", "float", "cores", "CPU time of the client over the window / duration"),
    Column("server_cpu", "float", "cores", "CPU time of the server between its snapshots / time"),
    Column("server_rss_bytes", "int", "B", "resident memory of the server at the window's end"),
    Column("server_threads", "int", "", "threads of the server at the window's end"),
    Column("server_voluntary_switches_per_s", "float", "1/s", "times a thread went to sleep"),
    Column("server_involuntary_switches_per_s", "float", "1/s", "times a thread was preempted"),
    Column("server_refused", "int", "", "connections refused until the window's end"),
    Column("server_errors", "str", "", "the server's errors until the window's end, as kind=count"),
    Column("server_bytes", "int", "B", "bytes received between the server's two snapshots"),
    Column("count_disagreement", "float", "", "server_bytes / client's bytes of that time - 1"),
    Column("steal", "float", "", "share of the two cores' time that the hypervisor took"),
    Column("other_cpu", "float", "cores", "what anything else took of the two cores, about"),
    Column("load_1m", "float", "", "load average of one minute when the trial began"),
)  # fmt: skip


@dataclass(frozen=True)
class Workload:
    """What the load generator is told, and how long it may take about it."""

    name: str
    arguments: tuple[str, ...]
    service: str
    service_options: tuple[str, ...]
    connections: int
    warmup_s: float
    duration_s: float
    tail_s: float = 0.0
    """How long load goes on after the window."""

    @property
    def deadline_s(self) -> float:
        """After this long from its start a client hangs."""
        connecting = READY_S + CONNECT_S_PER_CONNECTION * self.connections
        return connecting + self.warmup_s + self.duration_s + self.tail_s + READY_S


@dataclass(frozen=True)
class Measured:
    """A trial as it was: the row's fields, and the raw record behind them."""

    row: dict[str, Value]
    raw: dict[str, Any]


@dataclass
class _Record:
    """A trial while it happens; fields stay None when it never came so far."""

    announced: dict[str, Any] | None = None
    begin: Edge | None = None
    end: Edge | None = None
    edges_seen: int = 0
    """How many of the window's two ends the client announced, whatever became of the edges."""
    switches: list[tuple[int, int, int]] = field(default_factory=list)
    rss_bytes: int | None = None
    result: dict[str, Any] | None = None
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def measure(
    spec: ServerSpec,
    workload: Workload,
    interpreter: Interpreter,
    cores: Cores,
    client_command: Sequence[str],
    client_environment: Mapping[str, str] | None = None,
) -> Measured:
    """Run one trial in fresh processes.  Raises nothing but what stops the whole run."""
    started = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    load_1m = os.getloadavg()[0]
    record = _Record()
    try:
        _run(record, spec, workload, interpreter, cores, client_command, client_environment)
    except ChildError as error:
        record.reasons.append(str(error))
    row = _row(record, spec, workload)
    row.update(started_utc=started, load_1m=load_1m)
    raw = {
        "server": record.announced,
        "snapshots": [edge.stats if edge else None for edge in (record.begin, record.end)],
        "result": record.result,
    }
    return Measured(row, raw)


def start_server(
    spec: ServerSpec, workload_options: Sequence[str], service: str,
    interpreter: Interpreter, cores: Sequence[int],
) -> Child:  # fmt: skip
    """Start a server; its first message says where it listens."""
    command = spec.command(interpreter, service, ["--grace", str(GRACE_S), *workload_options])
    return Child("the server", command, cores=cores, environment=interpreter.environment)


def _run(
    record: _Record,
    spec: ServerSpec,
    workload: Workload,
    interpreter: Interpreter,
    cores: Cores,
    client_command: Sequence[str],
    client_environment: Mapping[str, str] | None,
) -> None:
    with start_server(
        spec, workload.service_options, workload.service, interpreter, cores.server
    ) as server:
        record.announced = server.next_message(after(READY_S), "get ready")
        try:
            target = f"{record.announced['host']}:{record.announced['port']}"
            command = [*client_command, workload.name, "--target", target, *workload.arguments]
            with Child(
                "the load generator", command, cores=cores.client, environment=client_environment
            ) as client:
                _watch(record, server, client, workload, cores)
        except ChildError:
            # When the server died, the client's complaint is a consequence of it.
            if server.returncode is not None:
                server.next_message(after(1.0), "say why it ended")
            raise
        if (status := server.stop()) != 0:
            record.warnings.append(f"the server ended with exit status {status} after SIGTERM")


def _watch(record: _Record, server: Child, client: Child, workload: Workload, cores: Cores) -> None:
    """Follow the client's events until its result."""
    assert record.announced is not None
    deadline = after(workload.deadline_s)
    host, admin_port = record.announced["host"], record.announced["admin_port"]

    def edge() -> Edge | None:
        """The server's side; without an answer there is still the client's result to come."""
        record.edges_seen += 1
        try:
            return read_edge(host, admin_port, server.pid, cores)
        except ChildError as error:
            if server.returncode is not None:
                raise
            if str(error) not in record.reasons:
                record.reasons.append(str(error))
            return None

    while record.result is None:
        event = client.next_message(deadline, "finish")
        match event.get("event"):
            case "connected":
                # Late in the warm-up and not in the window: with thousands of threads
                # this reading takes a while.
                if not client.wait_readable(after(0.7 * workload.warmup_s)):
                    record.switches.append(context_switches(server.pid))
            case "window_begin":
                record.begin = edge()
            case "window_end":
                record.end = edge()
                record.rss_bytes = rss_bytes(server.pid)
                record.switches.append(context_switches(server.pid))
            case "result":
                record.result = event
    if server.returncode is not None:
        server.next_message(after(1.0), "stay alive")


def _row(record: _Record, spec: ServerSpec, workload: Workload) -> dict[str, Value]:
    """The row of `trials.csv`, and the verdict."""
    result = record.result or {}
    reasons, warnings = record.reasons, record.warnings
    reasons += [str(reason) for reason in result.get("invalid_reasons", ())]
    warnings += [str(warning) for warning in result.get("warnings", ())]
    latency = result.get("ack_latency_us") or {}
    row: dict[str, Value] = dict.fromkeys(column.name for column in COLUMNS)
    row.update(
        server=spec.label,
        architecture=spec.architecture,
        server_options=shlex.join(spec.options),
        connections=workload.connections,
        warmup_s=workload.warmup_s,
        client_errors=_kinds(result.get("errors")),
        server_rss_bytes=record.rss_bytes,
    )
    for name in (
        "connected", "duration_s", "bandwidth_bps", "bytes", "bursts", "bursts_per_s",
        "jain_fairness", "client_cpu",
    ):  # fmt: skip
        row[name] = result.get(name)
    for name in ("p50", "p90", "p99", "max"):
        row[f"ack_{name}_us"] = latency.get(name)
    row["ack_samples"] = latency.get("samples")
    if record.end is not None:
        stats = record.end.stats
        row["server_threads"] = stats["threads"]
        row["server_refused"] = stats["connections"]["refused"]
        row["server_errors"] = _kinds(stats["errors"])
        if row["server_refused"]:
            reasons.append(f"the server refused {row['server_refused']} connections")
    timeline = result.pop("timeline", None)  # not kept: it serves its purpose here
    if record.begin is not None and record.end is not None:
        row.update(_between(record.begin, record.end, result.get("client_cpu")))
        if timeline is not None:
            disagreement, reason = compare_counts(record.begin.stats, record.end.stats, timeline)
            row["count_disagreement"] = disagreement
            reasons += [reason] if reason else []
    elif record.result is not None and record.edges_seen < 2:
        reasons.append("the load generator reported no window")
    if len(record.switches) == 2:
        (t0, voluntary0, forced0), (t1, voluntary1, forced1) = record.switches
        seconds = (t1 - t0) / 1e9
        row["server_voluntary_switches_per_s"] = max(0, voluntary1 - voluntary0) / seconds
        row["server_involuntary_switches_per_s"] = max(0, forced1 - forced0) / seconds
    if result.get("valid") is False and not reasons:
        reasons.append("the load generator says so, without a reason")
    row["valid"] = not reasons
    row["invalid_reason"] = " | ".join(reasons)
    row["warnings"] = " | ".join(warnings)
    return row


def _between(begin: Edge, end: Edge, client_cpu: float | None) -> dict[str, Value]:
    elapsed_ns = end.stats["time_ns"] - begin.stats["time_ns"]
    ticks = end.ticks - begin.ticks
    if elapsed_ns <= 0 or ticks <= 0:
        return {"server_bytes": end.stats["bytes_in"] - begin.stats["bytes_in"]}
    server_cpu = (end.cpu_ns - begin.cpu_ns) / elapsed_ns
    busy = (end.busy - begin.busy) / os.sysconf("SC_CLK_TCK") / (elapsed_ns / 1e9)
    return {
        "server_bytes": end.stats["bytes_in"] - begin.stats["bytes_in"],
        "server_cpu": server_cpu,
        "steal": (end.stolen - begin.stolen) / ticks,
        "other_cpu": None if client_cpu is None else max(0.0, busy - server_cpu - client_cpu),
    }


def compare_counts(
    begin: Mapping[str, Any], end: Mapping[str, Any], timeline: Mapping[str, Sequence[int]]
) -> tuple[float | None, str | None]:
    """Server's bytes between two snapshots, beside the client's in the same interval.

    Returns the relative disagreement and, if it spoils the trial, the reason.
    """
    times, counts = timeline["t_ns"], timeline["bytes"]
    first, last = begin["time_ns"], end["time_ns"]
    if not times or first < times[0] or last > times[-1] or last <= first:
        late_ms = (last - times[-1]) / 1e6 if times else 0.0
        return None, (
            f"counts not comparable: the server's snapshot came {late_ms:.0f} ms after the "
            "client's last count"
            if late_ms > 0
            else "counts not comparable: the server's snapshots are outside the client's counts"
        )
    sent = _interpolate(times, counts, last) - _interpolate(times, counts, first)
    received = end["bytes_in"] - begin["bytes_in"]
    if sent <= 0:
        return None, "the client sent nothing between the server's snapshots"
    disagreement = received / sent - 1
    if abs(disagreement) > TOLERANCE:
        return disagreement, (
            f"counts disagree: the server received {abs(disagreement):.1%} "
            f"{'more' if disagreement > 0 else 'less'} than the client sent"
        )
    return disagreement, None


def _interpolate(times: Sequence[int], values: Sequence[int], at: int) -> float:
    right = bisect_left(times, at)
    if times[right] == at:
        return values[right]
    left = right - 1
    share = (at - times[left]) / (times[right] - times[left])
    return values[left] + share * (values[right] - values[left])


def after(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)


def _kinds(errors: Mapping[str, int] | None) -> str:
    return " ".join(f"{kind}={count}" for kind, count in sorted((errors or {}).items()) if count)
