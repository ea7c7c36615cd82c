"""figure1: how does bandwidth change with the number of connections?

The experiment behind Figure 1 of Welsh and Culler, "Virtualization Considered
Harmful: OS Design Directions for Well-Conditioned Services" (HotOS 2001): N
clients send bursts of 1000 packets of 8 KB, closed loop, and wait for one
32-byte acknowledgement a burst.  The paper's claim: a thread per connection
degrades with N and stops at about 400; events do not.

`run` and `resume` are the whole interface; the command line is a thin layer
over them:

    >>> from sedabench.experiments import figure1
    >>> run = figure1.run(figure1.Figure1.quick(repeats=1), Path("results/try"))
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sedabench import burst_columns, machine, servers_under_test
from sedabench.errors import DamagedRunError, UserError, one_line
from sedabench.process import ChildError
from sedabench.progress import Progress
from sedabench.results import Run, RunWriter, check_new_folder, load_run, utc_now
from sedabench.runner import Cell, Outcome, blocked_order, carry_out, note_resume, recorded_server
from sedabench.servers_under_test import ServerSpec
from sedabench.trial import READY_S, Measured, Workload, after, measure, start_server

NAME = "figure1"
SUMMARY = "bandwidth of bursts against the number of connections (the paper's Figure 1)"

DEFAULT_OPTIONS: dict[str, tuple[str, ...]] = {"threaded": ("--writers", "120")}
"""Options of a server that is named without any: the paper's variant of threads."""
DEFAULT_SERVERS = ("threaded", "eventloop", "seda")

QUICK_CONNECTIONS = (1, 16, 64, 256, 1024)
FULL_CONNECTIONS = tuple(2**power for power in range(14))

FILLING, LONGEST_FILLING_S = 512, 8.0
"""Connections a second is added to the warm-up for, and how many seconds at most.

Before the flow is steady, the buffers of all connections have filled in the
first rush, and the server has caught up: with 1024 connections and 0.6 s of
warm-up the server's count was up to 8 % off the client's, with 2.3 s under
0.1 % in most trials; with 8192 and 9 s, 0.1 %.
"""

ANSWERING = 2048
"""Connections a second of load after the window is added for.

A server with a thread for each of 8192 connections answers `/stats` 2 to 3 s
after it was asked; the load must last until then, or the counts of the two
sides cannot be compared.
"""

LARGEST_BUFFER, SMALLEST_BUFFER, BUFFERS = 128 << 10, 16 << 10, 1 << 30
"""Bytes of a receive buffer, and of all together: what the load generator's send buffers have."""

SPARE_DESCRIPTORS = 64
"""What a server or a client opens beside its connections, generously."""


@dataclass(frozen=True)
class Figure1:
    """Settings of a run; everything that decides what is measured."""

    servers: tuple[ServerSpec, ...]
    connections: tuple[int, ...] = FULL_CONNECTIONS
    repeats: int = 5
    duration_s: float = 3.0
    warmup_s: float = 1.0
    """The base of the warm-up: see `warmup_for`."""
    seed: int = 2001
    packets: int = 1000
    packet_bytes: int = 8192
    python: str | None = None
    """The servers' interpreter; None: that of the driver."""

    @classmethod
    def full(cls, **changes: Any) -> Figure1:
        """14 levels, five repeats, windows of 3 s: about 25 minutes."""
        return replace(cls(default_servers()), **changes)

    @classmethod
    def quick(cls, **changes: Any) -> Figure1:
        """5 levels, two repeats, windows of 1 s: a minute and a bit."""
        quick = cls(default_servers(), QUICK_CONNECTIONS, 2, 1.0, 0.3)
        return replace(quick, **changes)

    def warmup_for(self, connections: int) -> float:
        """The warm-up of a level, in seconds: the base, and one for every `FILLING`, to a limit."""
        return round(self.warmup_s + min(LONGEST_FILLING_S, connections / FILLING), 3)

    def tail_for(self, connections: int) -> float:
        """How long load goes on after the window, in seconds: 0.5, and 1 for every `ANSWERING`."""
        return round(0.5 + connections / ANSWERING, 3)

    def receive_buffer_for(self, connections: int) -> int:
        """SO_RCVBUF of the server's connections in bytes, the same for every server.

        Left to itself the kernel grows each to megabytes while a trial runs;
        then the client hands over bytes that no server has read, and bandwidth
        depends on how long one waits.
        """
        return max(SMALLEST_BUFFER, min(LARGEST_BUFFER, BUFFERS // connections))

    def workload(self, connections: int) -> Workload:
        warmup_s = self.warmup_for(connections)
        size = ("--packets", str(self.packets), "--packet-bytes", str(self.packet_bytes))
        return Workload(
            name="burst",
            columns=burst_columns,
            arguments=(
                "--connections", str(connections), "--duration", str(self.duration_s),
                "--warmup", str(warmup_s), "--tail", str(self.tail_for(connections)),
                *size, "--events",
            ),
            service="burst",
            service_options=(*size, "--receive-buffer", str(self.receive_buffer_for(connections))),
            connections=connections,
            warmup_s=warmup_s,
            duration_s=self.duration_s,
            tail_s=self.tail_for(connections),
        )  # fmt: skip

    def estimate_s(self, cell: Cell) -> float:
        """About how long a trial takes, all in: 0.7 s are start and stop."""
        connections = int(cell["connections"])
        flowing = self.warmup_for(connections) + self.duration_s + self.tail_for(connections)
        return 0.7 + connections / 4000 + flowing


def default_servers() -> tuple[ServerSpec, ...]:
    """The three that the figure is about."""
    return servers_under_test.parse_specs(DEFAULT_SERVERS, DEFAULT_OPTIONS)


def check(config: Figure1) -> None:
    """Find out before the first trial what would make trials fail.

    Raises:
        UserError: a setting that cannot be, or that this machine's limits do not allow.
    """
    if not config.servers:
        raise UserError("no server to measure; name one with --server")
    if not config.connections or min(config.connections) < 1:
        raise UserError("levels must be positive whole numbers; for example --connections 1,16,64")
    if len(set(config.connections)) < len(config.connections):
        raise UserError("a level is named twice in --connections; name each once")
    if config.repeats < 1 or config.packets < 1 or config.packet_bytes < 1:
        raise UserError("--repeats, --packets and --packet-bytes must be at least 1")
    if not 0 < config.duration_s < math.inf or not 0 <= config.warmup_s < math.inf:
        raise UserError("--duration must be over 0, --warmup at least 0, and both finite (seconds)")
    most = max(config.connections)
    needed, limit = most + SPARE_DESCRIPTORS, machine.descriptor_limit()
    if needed > limit:
        raise UserError(
            f"{most} connections need {needed} descriptors a process and the hard limit is {limit} "
            f"(RLIMIT_NOFILE, ulimit -Hn); raise it: 'ulimit -Hn {needed}' as root, LimitNOFILE= "
            "or /etc/security/limits.conf, or ask for fewer connections"
        )
    low, high = machine.ephemeral_ports()
    if most > high - low + 1:
        raise UserError(
            f"{most} connections need as many ephemeral ports and there are {high - low + 1} "
            f"(net.ipv4.ip_local_port_range is {low} {high}); widen it with "
            "'sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"', or ask for fewer connections"
        )


def run(config: Figure1, out: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure a new run into the folder `out`, which must not exist or be empty.

    Raises:
        UserError: see `check`; or a server cannot be started; or `out` cannot be used.
    """
    check(config)
    check_new_folder(out)
    driver = machine.probe_interpreter(sys.executable)
    interpreter = driver if config.python is None else machine.probe_interpreter(config.python)
    cores = machine.choose_cores()
    _try_servers(config, interpreter, cores)
    plan = blocked_order(
        [spec.label for spec in config.servers], config.connections, config.repeats, config.seed
    )
    facts = machine.facts()
    warnings = [cores.warning] if cores.warning else []
    busy = facts["load_average"][0]
    if busy > 0.5:
        warnings.append(f"the machine was busy at the start: load average {busy:.2f}")
    manifest = {
        "experiment": NAME,
        "status": "running",
        "started_utc": utc_now(),
        "ended_utc": None,
        "parameters": asdict(config),
        "seed": config.seed,
        "warmup_by_connections_s": {str(n): config.warmup_for(n) for n in config.connections},
        "receive_buffer_by_connections_bytes": {
            str(n): config.receive_buffer_for(n) for n in config.connections
        },
        "command": machine.command_line(),
        "warnings": warnings,
        "resumed": [],
        "cores": {"server": cores.server, "client": cores.client},
        "interpreters": {
            "driver": driver.facts,
            "server": {**interpreter.facts, "title": interpreter.title},
        },
        "versions": machine.versions(),
        "git": machine.git_state(),
        "machine": facts,
        "plan": plan,
    }
    with RunWriter.create(out, manifest, burst_columns.COLUMNS) as writer:
        return _finish(writer, config, driver, interpreter, cores, progress or Progress())


def resume(path: Path, progress: Progress | None = None) -> tuple[Run, Outcome]:
    """Measure what an interrupted run lacks, with its own settings and order.

    Finished trials stay as they are, invalid ones too: to repeat only what
    displeased would bias the run.

    Raises:
        DamagedRunError: see `sedabench.results.read_folder`.
        UserError: it is no run of figure1, or another process is writing it.
    """
    with RunWriter.reopen(path) as writer:
        if writer.manifest["experiment"] != NAME:
            raise UserError(f"{path} is a run of {writer.manifest['experiment']!r}, not of {NAME}")
        config = _config_of(path, writer.manifest)
        check(config)
        progress = progress or Progress()
        driver = interpreter = machine.probe_interpreter(sys.executable)
        cores = machine.choose_cores()
        if len(writer.finished) == len(writer.manifest["plan"]):
            progress.say("nothing is missing: every trial of this run is finished")
        else:
            interpreter = _interpreter_again(config, driver, writer.manifest)
            _try_servers(config, interpreter, cores)
            for difference in note_resume(writer, interpreter):
                progress.say(f"warning: {difference}")
        return _finish(writer, config, driver, interpreter, cores, progress)


def _interpreter_again(
    config: Figure1, driver: machine.Interpreter, manifest: Mapping[str, Any]
) -> machine.Interpreter:
    """The servers' interpreter of a run that is continued, perhaps from another folder."""
    recorded = recorded_server(manifest)
    path = config.python
    if path is None:
        return driver
    elsewhere = os.sep in path and not Path(path).is_absolute() and not Path(path).exists()
    if elsewhere and all(recorded.get(k) == driver.facts[k] for k in ("version", "gil")):
        return driver
    return machine.probe_interpreter(path)


def draw(run: Run) -> list[Path]:
    """Draw figure.png and figure.svg; nothing when no trial has a bandwidth."""
    from sedabench import plots

    if not len(run.trials) or run.trials["bandwidth_bps"].isna().all():
        return []
    try:
        return plots.save(plots.figure1(run), run.path / "figure")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        # Everything that a figure says comes from the folder.
        raise DamagedRunError(
            f"{run.path} is damaged: its figure cannot be drawn ({one_line(repr(error))}); "
            "restore manifest.json and trials.csv"
        ) from error


def _finish(
    writer: RunWriter,
    config: Figure1,
    driver: machine.Interpreter,
    interpreter: machine.Interpreter,
    cores: machine.Cores,
    progress: Progress,
) -> tuple[Run, Outcome]:
    specs = {spec.label: spec for spec in config.servers}

    def measure_cell(cell: Cell) -> Measured:
        workload = config.workload(cell["connections"])
        return measure(
            specs[cell["server"]], workload, interpreter, cores, LOADGEN, driver.environment
        )

    outcome = carry_out(writer, measure_cell, describe, config.estimate_s, progress)
    run = load_run(writer.path)
    draw(run)
    return run, outcome


LOADGEN = (sys.executable, "-P", "-m", "loadgen")


def describe(row: Mapping[str, Any]) -> str:
    """A finished trial in one line."""
    cell = f"{row['server']} {row['connections']}"
    if row["bandwidth_bps"] is None:
        return f"{cell}  no result: {row['invalid_reason']}"
    invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
    return f"{cell}  {row['bandwidth_bps'] / 1e9:.2f} Gbit/s{invalid}"


def _try_servers(config: Figure1, interpreter: machine.Interpreter, cores: machine.Cores) -> None:
    """Start and stop each server once: a wrong option is an error now, not 70 invalid trials."""
    workload = config.workload(1)
    for spec in config.servers:
        try:
            with start_server(
                spec, workload.service_options, workload.service, interpreter, cores.server
            ) as server:
                server.next_message(after(READY_S), "get ready")
        except ChildError as error:
            raise UserError(f"--server {spec.label!r} does not start: {error}") from None


def _config_of(path: Path, manifest: Mapping[str, Any]) -> Figure1:
    """The settings of a recorded run, proved to belong to its plan."""
    try:
        parameters = dict(manifest["parameters"])
        servers = tuple(
            ServerSpec(spec["label"], spec["architecture"], tuple(spec["options"]))
            for spec in parameters.pop("servers")
        )
        levels: Sequence[int] = parameters.pop("connections")
        config = Figure1(servers, tuple(levels), **parameters)
        if (wrong := _wrongly_typed(config)) is not None:
            raise TypeError(f"{wrong} is of the wrong type")
        if config.python == (manifest.get("interpreters") or {}).get("driver", {}).get("path"):
            config = replace(config, python=None)
        if any(type(cell[key]) is not int for cell in manifest["plan"] for key in _NUMBERS):
            raise TypeError("a number of its plan is none")
        cells = {(spec.label, level) for spec in servers for level in levels}
        planned = [
            (cell["server"], cell["connections"], cell["block"]) for cell in manifest["plan"]
        ]
        fits = (
            len(planned) == len(cells) * config.repeats
            and sorted(planned)
            == sorted(
                (server, level, block) for server, level in cells for block in range(config.repeats)
            )
            and [cell["trial"] for cell in manifest["plan"]] == list(range(len(planned)))
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedRunError(
            f"{path} is damaged: its settings cannot be read ({error}); start a new run"
        ) from None
    if not fits:
        raise DamagedRunError(
            f"{path} is damaged: its plan is not that of its settings; start a new run"
        )
    return config


_NUMBERS = ("trial", "block", "connections")


def _wrongly_typed(config: Figure1) -> str | None:
    """The first setting that is not of its type: what JSON can say and a run cannot use."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    def seconds(value: Any) -> bool:
        return whole(value) or (isinstance(value, float) and math.isfinite(value))

    def text(value: Any) -> bool:
        return isinstance(value, str)

    checks = {
        "servers": all(
            text(spec.label) and text(spec.architecture) and all(map(text, spec.options))
            for spec in config.servers
        ),
        "connections": all(map(whole, config.connections)),
        "duration_s": seconds(config.duration_s),
        "warmup_s": seconds(config.warmup_s),
        "python": config.python is None or text(config.python),
    } | {
        name: whole(getattr(config, name))
        for name in ("repeats", "seed", "packets", "packet_bytes")
    }
    return next((name for name, right in checks.items() if not right), None)
