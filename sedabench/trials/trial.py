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
server's counts are the check.  What both mean is the workload's own affair:
its columns are a module (`burst_columns`, `http_columns`), and this file moves
them from process to row without reading them.

Whatever goes wrong in a trial becomes its `invalid_reason`; the run goes on.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sedabench.errors import UserError
from sedabench.machine.facts import Cores, Interpreter
from sedabench.machine.process import Child, ChildError
from sedabench.results.folder import Value
from sedabench.targets.external import start_external
from sedabench.targets.servers import AnyServer, ServerSpec
from sedabench.trials.columns import Columns, kinds
from sedabench.trials.readings import Edge, context_switches, read_edge, read_moment, rss_bytes

READY_S = 20.0
"""How long a server may take to say that it is ready, or a client to start and end."""
CONNECT_S_PER_CONNECTION = 0.01
GRACE_S = 1


@dataclass(frozen=True)
class Workload:
    """What the load generator is told, and how long it may take about it."""

    name: str
    columns: Columns
    """How its result becomes a row."""
    arguments: tuple[str, ...]
    service: str
    service_options: tuple[str, ...]
    connections: int
    warmup_s: float
    duration_s: float
    tail_s: float = 0.0
    """How long load goes on after the window."""
    target: str = "{address}"
    """What the load generator is told to aim at; {address} is HOST:PORT."""
    docroot: Path | None = None
    """What a server that is not ours serves."""
    offered: str | None = None
    """Which of its services such a server is asked for."""
    poll_s: float | None = None
    """Ask the server for its counters so often from the first connection to the window's end."""

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
    moments: list[dict[str, Any]] = field(default_factory=list)
    """What the server said of itself every `poll_s`."""
    rss_bytes: int | None = None
    result: dict[str, Any] | None = None
    reasons: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def measure(
    spec: AnyServer,
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
    raw: dict[str, Any] = {
        "server": record.announced,
        "snapshots": [edge.stats if edge else None for edge in (record.begin, record.end)],
        "result": None if record.result is None else workload.columns.to_keep(record.result),
    }
    if workload.poll_s is not None:
        raw["server_timeline"] = _timeline(record)
    return Measured(row, raw)


def start_server(
    spec: AnyServer, workload: Workload, interpreter: Interpreter, cores: Sequence[int]
) -> Child:
    """Start a server; its first message says where it listens."""
    if not isinstance(spec, ServerSpec):
        docroot = workload.docroot or Path(os.devnull)
        try:
            return start_external(
                spec, docroot, cores, service=workload.offered, python=interpreter.path
            )
        except UserError as error:
            raise ChildError(str(error)) from None
    options = ["--grace", str(GRACE_S), *workload.service_options]
    command = spec.command(interpreter, workload.service, options)
    return Child("the server", command, cores=cores, environment=interpreter.environment)


def _run(
    record: _Record,
    spec: AnyServer,
    workload: Workload,
    interpreter: Interpreter,
    cores: Cores,
    client_command: Sequence[str],
    client_environment: Mapping[str, str] | None,
) -> None:
    with start_server(spec, workload, interpreter, cores.server) as server:
        record.announced = server.next_message(after(READY_S), "get ready")
        try:
            address = f"{record.announced['host']}:{record.announced['port']}"
            target = workload.target.format(address=address)
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
    announced = record.announced

    def edge() -> Edge | None:
        """The server's side; without an answer there is still the client's result to come."""
        record.edges_seen += 1
        try:
            return read_edge(announced, cores)
        except ChildError as error:
            if server.returncode is not None:
                raise
            if str(error) not in record.reasons:
                record.reasons.append(str(error))
            return None

    polling = False
    while record.result is None:
        if polling and workload.poll_s is not None and announced["admin_port"] is not None:
            _poll(record, client, workload.poll_s, deadline)
        event = client.next_message(deadline, "finish")
        match event.get("event"):
            case "connected":
                polling = True
                # Late in the warm-up and not in the window: with thousands of threads
                # this reading takes a while.
                known = announced["admin_port"] is not None
                if known and not client.wait_readable(after(0.7 * workload.warmup_s)):
                    record.switches.append(context_switches(server.pid))
            case "window_begin":
                record.begin = edge()
            case "window_end":
                polling = False
                record.end = edge()
                record.rss_bytes = rss_bytes(announced)
                if announced["admin_port"] is not None:
                    record.switches.append(context_switches(server.pid))
            case "result":
                record.result = event
    if server.returncode is not None:
        server.next_message(after(1.0), "stay alive")


def _poll(record: _Record, client: Child, period_s: float, deadline_ns: int) -> None:
    """Keep what the server says of itself, every `period_s` until the client says something."""
    assert record.announced is not None
    host, port = record.announced["host"], record.announced["admin_port"]
    due_ns = after(0)
    while not client.wait_readable(min(due_ns, deadline_ns)) and time.monotonic_ns() < deadline_ns:
        try:
            record.moments.append(read_moment(host, port))
        except ChildError:
            pass  # a gap in a picture; the window's own two readings say if it matters
        due_ns = max(due_ns + int(period_s * 1e9), time.monotonic_ns())


def _timeline(record: _Record) -> list[dict[str, Any]] | None:
    """The moments with their time from the schedule's begin; None when that is not known."""
    start_ns = (record.result or {}).get("start_ns")
    if start_ns is None:
        return None
    return [
        {"t_s": round((moment["time_ns"] - start_ns) / 1e9, 4)}
        | {name: value for name, value in moment.items() if name != "time_ns"}
        for moment in record.moments
    ]


def _row(record: _Record, spec: AnyServer, workload: Workload) -> dict[str, Value]:
    """The row of `trials.csv`, and the verdict."""
    result = record.result or {}
    reasons, warnings = record.reasons, record.warnings
    reasons += [str(reason) for reason in result.get("invalid_reasons", ())]
    warnings += [str(warning) for warning in result.get("warnings", ())]
    row: dict[str, Value] = dict.fromkeys(column.name for column in workload.columns.COLUMNS)
    row.update(
        server=spec.label,
        architecture=spec.architecture,
        server_options=shlex.join(spec.options),
        connections=workload.connections,
        warmup_s=workload.warmup_s,
        server_rss_bytes=record.rss_bytes,
        **workload.columns.of_result(result),
    )
    if record.end is not None:
        stats = record.end.stats
        row["server_threads"] = stats["threads"]
        row["server_refused"] = (stats.get("connections") or {}).get("refused")
        row["server_errors"] = kinds(stats.get("errors"))
        if fault := stats.get("last_fault"):
            warnings.append(f"the service raised {fault}")
        if row["server_refused"]:
            reasons.append(f"the server refused {row['server_refused']} connections")
    if record.begin is not None and record.end is not None:
        row.update(_between(record.begin, record.end, result.get("client_cpu")))
        counts, reason = workload.columns.of_snapshots(record.begin.stats, record.end.stats, result)
        row.update(counts)
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
    elapsed_ns = end.time_ns - begin.time_ns
    ticks = end.ticks - begin.ticks
    if elapsed_ns <= 0 or ticks <= 0:
        return {}
    server_cpu = (end.cpu_ns - begin.cpu_ns) / elapsed_ns
    busy = (end.busy - begin.busy) / os.sysconf("SC_CLK_TCK") / (elapsed_ns / 1e9)
    return {
        "server_cpu": server_cpu,
        "steal": (end.stolen - begin.stolen) / ticks,
        "other_cpu": None if client_cpu is None else max(0.0, busy - server_cpu - client_cpu),
    }


def after(seconds: float) -> int:
    return time.monotonic_ns() + int(seconds * 1e9)
