"""Where trials are measured: the bench, checks before the first one, the manifest."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sedabench.errors import SettingError, UserError
from sedabench.experiments.plan import Cell
from sedabench.experiments.plan import recorded_server as recorded_interpreter
from sedabench.experiments.settings import Settings
from sedabench.machine import facts as machine
from sedabench.machine.process import ChildError
from sedabench.results.folder import utc_now
from sedabench.targets.external import ExternalSpec, load_external
from sedabench.targets.external.definition import BUILT_IN
from sedabench.targets.servers import AnyServer, ServerSpec
from sedabench.trials.trial import READY_S, Measured, Workload, after, measure, start_server

LOADGEN = (sys.executable, "-P", "-m", "loadgen")

OWN_LOAD_S = 10.0
"""CPU time of ended children beyond which trials were among them; to try servers takes less."""

READERS = (
    "pandas", "matplotlib.figure", "matplotlib.lines", "matplotlib.ticker",
    "matplotlib.patches",
)  # fmt: skip
"""What runs are read and drawn with, beside our own modules."""

SPARE_DESCRIPTORS = 64
"""What a server or a client opens beside its connections, generously."""


@dataclass(frozen=True)
class Bench:
    """Where a run is measured: who runs the driver and the servers, and on which cores."""

    driver: machine.Interpreter
    interpreter: machine.Interpreter
    cores: machine.Cores

    @classmethod
    def of(cls, python: str | None) -> Self:
        driver = machine.probe_interpreter(sys.executable)
        interpreter = driver if python is None else machine.probe_interpreter(python)
        return cls(driver, interpreter, machine.choose_cores())

    @classmethod
    def again(cls, python: str | None, manifest: Mapping[str, Any]) -> Self:
        """That of a run that is continued, perhaps from another folder."""
        recorded = recorded_interpreter(manifest)
        if python is not None and os.sep in python and not Path(python).is_absolute():
            here = cls.of(None)
            known = all(recorded.get(key) == here.driver.facts[key] for key in ("version", "gil"))
            if known and not Path(python).exists():
                return here
        return cls.of(python)

    def measure(self, spec: AnyServer, workload: Workload) -> Measured:
        """One trial, with this project's load generator."""
        environment = self.driver.environment
        return measure(spec, workload, self.interpreter, self.cores, LOADGEN, environment)


# -- before the first trial ---------------------------------------------------------------


def check_shared(config: Settings, connections: int) -> None:
    """Find out what would make any experiment's trials fail; `connections` are the most at once.

    Raises:
        UserError: a setting that cannot be, or that this machine's limits do not allow.
    """
    if not config.servers:
        raise UserError("there is no server to measure; name one at least")
    needed, limit = connections + SPARE_DESCRIPTORS, machine.descriptor_limit()
    if needed > limit:
        raise UserError(
            f"{connections} connections need {needed} descriptors a process and the hard limit is "
            f"{limit} (RLIMIT_NOFILE, ulimit -Hn); raise it: 'ulimit -Hn {needed}' as root, "
            "LimitNOFILE= or /etc/security/limits.conf, or ask for fewer connections"
        )
    low, high = machine.ephemeral_ports()
    if connections > high - low + 1:
        raise UserError(
            f"{connections} connections need as many ephemeral ports and there are "
            f"{high - low + 1} (net.ipv4.ip_local_port_range is {low} {high}); widen it with "
            "'sysctl -w net.ipv4.ip_local_port_range=\"1024 65535\"', or ask for fewer connections"
        )


def check_external(specs: Iterable[AnyServer], workload: str) -> None:
    """Servers that are not ours must offer the workload and be installed; else UserError."""
    for spec in specs:
        if isinstance(spec, ServerSpec):
            continue
        if workload not in spec.services:
            offered = ", ".join(spec.services)
            raise UserError(f"{spec.label} does not offer {workload!r}, only {offered}")
        if (missing := spec.missing()) is not None:
            raise UserError(missing)


def try_servers(specs: Iterable[AnyServer], workload: Workload, bench: Bench) -> None:
    """Start and stop each server once: a wrong option is an error now, not 70 invalid trials."""
    for spec in specs:
        try:
            with start_server(spec, workload, bench.interpreter, bench.cores.server) as server:
                server.next_message(after(READY_S), "get ready")
        except ChildError as error:
            raise SettingError("servers", f"{spec.label!r} does not start: {error}") from None


def import_readers() -> None:
    """Import what a run is read and drawn with before it is measured.

    An interruption in the middle of a first import leaves half a module behind,
    and then what is finished could not be shown.
    """
    for name in READERS:
        importlib.import_module(name)


def manifest(
    name: str, config: Settings, bench: Bench, plan: Sequence[Cell], more: Mapping[str, Any]
) -> dict[str, Any]:
    """A new run's manifest; `more` is what this experiment alone has to say."""
    facts = machine.facts()
    warnings = [bench.cores.warning] if bench.cores.warning else []
    busy = facts["load_average"][0]
    if busy > 0.5 and not _measured_before():
        warnings.append(f"the machine was busy at the start: load average {busy:.2f}")
    return {
        "experiment": name,
        "status": "running",
        "started_utc": utc_now(),
        "ended_utc": None,
        "parameters": parameters(config),
        "seed": config.seed,
        "external_servers": {
            spec.label: spec.facts(bench.interpreter.path)
            for spec in config.servers
            if not isinstance(spec, ServerSpec)
        },
        **more,
        "command": machine.command_line(),
        "warnings": warnings,
        "resumed": [],
        "cores": {"server": bench.cores.server, "client": bench.cores.client},
        "interpreters": {
            "driver": bench.driver.facts,
            "server": {**bench.interpreter.facts, "title": bench.interpreter.title},
        },
        "versions": machine.versions(),
        "git": machine.git_state(),
        "machine": facts,
        "plan": plan,
    }


def _measured_before() -> bool:
    """Whether this process has measured already: then the load average is, above all, its own."""
    times = os.times()
    return times.children_user + times.children_system > OWN_LOAD_S


def parameters(config: Settings) -> dict[str, Any]:
    """Settings as JSON; of a server that is not ours, where its definition is."""
    servers = [
        asdict(spec)
        if isinstance(spec, ServerSpec)
        else {
            "label": spec.label,
            "architecture": spec.architecture,
            "options": [],
            "definition": None if spec.source == BUILT_IN else str(spec.source),
        }
        for spec in config.servers
    ]
    return {"servers": servers, **config.model_dump(mode="json", exclude={"servers"})}


def recorded_server(spec: Mapping[str, Any]) -> AnyServer:
    if spec["architecture"] != ExternalSpec.architecture:
        return ServerSpec(spec["label"], spec["architecture"], tuple(spec["options"]))
    definitions = [] if spec["definition"] is None else [Path(spec["definition"])]
    return load_external(definitions)[spec["label"]]
