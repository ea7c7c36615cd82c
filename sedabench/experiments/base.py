"""What experiments share: the bench they run on, checks, the manifest, and taking a run up again.

An experiment's settings are a frozen dataclass whose fields are numbers, texts
and tuples of them, and `servers`.  From the settings comes the plan; a recorded
run is taken up again only if its plan is the one that its settings make.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from loadgen.output import visible
from sedabench.errors import DamagedRunError, UserError
from sedabench.experiments.plan import Cell, note_resume, recorded_server
from sedabench.machine import facts as machine
from sedabench.machine.process import ChildError
from sedabench.progress import Progress
from sedabench.results.folder import Run, RunWriter, utc_now
from sedabench.targets.external import ExternalSpec, load_external
from sedabench.targets.external.definition import BUILT_IN
from sedabench.targets.servers import AnyServer, ServerSpec
from sedabench.trials.trial import READY_S, Measured, Workload, after, measure, start_server

LOADGEN = (sys.executable, "-P", "-m", "loadgen")

OWN_LOAD_S = 10.0
"""CPU time of ended children beyond which trials were among them; to try servers takes less."""

READERS = (
    "pandas", "matplotlib.figure", "matplotlib.lines", "matplotlib.ticker",
    "sedabench.analysis.overload_findings", "sedabench.figures.overload", "sedabench.figures.peers",
    "sedabench.analysis.figure1",
)  # fmt: skip

SPARE_DESCRIPTORS = 64
"""What a server or a client opens beside its connections, generously."""


class Settings(Protocol):
    """What the settings of every experiment have."""

    @property
    def servers(self) -> tuple[AnyServer, ...]: ...
    @property
    def repeats(self) -> int: ...
    @property
    def duration_s(self) -> float: ...
    @property
    def warmup_s(self) -> float: ...
    @property
    def seed(self) -> int: ...
    @property
    def python(self) -> str | None: ...


AnySettings = TypeVar("AnySettings", bound=Settings)


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
        recorded = recorded_server(manifest)
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
        raise UserError("no server to measure; name one with --server")
    if config.repeats < 1:
        raise UserError("--repeats must be at least 1")
    if not 0 < config.duration_s < math.inf or not 0 <= config.warmup_s < math.inf:
        raise UserError("--duration must be over 0, --warmup at least 0, and both finite (seconds)")
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


def check_levels(connections: Sequence[int]) -> None:
    """Numbers of connections to sweep over.  Raises UserError if they cannot be."""
    if not connections or min(connections) < 1:
        raise UserError("levels must be positive whole numbers; for example --connections 1,16,64")
    if len(set(connections)) < len(connections):
        raise UserError("a level is named twice in --connections; name each once")


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
            raise UserError(f"--server {spec.label!r} does not start: {error}") from None


def import_readers() -> None:
    """Import what a run is read and drawn with before it is measured.

    An interruption in the middle of a first import leaves half a module behind,
    and then what is finished could not be shown.
    """
    for name in READERS:
        importlib.import_module(name)


def draw(how: Callable[[Run], list[Path]], run: Run) -> list[Path]:
    """The figures of a run that was just measured; one line says it when there can be none.

    Whatever keeps them from being drawn, a label or a full disk, the data is kept.
    """
    from sedabench.figures.plots import not_drawn

    try:
        return how(run)
    except Exception as error:
        text = str(error) if isinstance(error, UserError) else not_drawn(run.path, error)
        print(f"warning: {visible(text)}", file=sys.stderr)
        return []


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
        "parameters": _parameters(config),
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


def _parameters(config: Settings) -> dict[str, Any]:
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
    others = {
        field.name: getattr(config, field.name)
        for field in fields(config)  # type: ignore[arg-type]
        if field.name != "servers"
    }
    return {"servers": servers, **others}


def _recorded_server(spec: Mapping[str, Any]) -> AnyServer:
    if spec["architecture"] != ExternalSpec.architecture:
        return ServerSpec(spec["label"], spec["architecture"], tuple(spec["options"]))
    definitions = [] if spec["definition"] is None else [Path(spec["definition"])]
    return load_external(definitions)[spec["label"]]


# -- taking a run up again ----------------------------------------------------------------


def reopened(
    writer: RunWriter,
    config: Settings,
    workload: Workload,
    progress: Progress,
) -> Bench:
    """Make ready to measure what a run lacks, and note in its manifest that it is continued."""
    if len(writer.finished) == len(writer.manifest["plan"]):
        progress.say("nothing is missing: every trial of this run is finished")
        return Bench.of(None)
    bench = Bench.again(config.python, writer.manifest)
    try_servers(config.servers, workload, bench)
    import_readers()
    for difference in note_resume(writer, bench.interpreter):
        progress.say(f"warning: {difference}")
    return bench


def recorded_settings(
    kind: type[AnySettings],
    name: str,
    plan_of: Callable[[AnySettings], Sequence[Cell]],
    path: Path,
    manifest: Mapping[str, Any],
) -> AnySettings:
    """The settings of a recorded run, proved to belong to its plan.

    Raises:
        UserError: it is a run of another experiment.
        DamagedRunError: they cannot be read, or make another plan.
    """
    if manifest["experiment"] != name:
        raise UserError(
            f"{path} is a run of {manifest['experiment']}; continue it with: "
            f"sedabench run {manifest['experiment']} --resume {shlex.quote(str(path))}"
        )
    try:
        parameters = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in manifest["parameters"].items()
        }
        parameters["servers"] = tuple(_recorded_server(spec) for spec in parameters["servers"])
        config = kind(**parameters)
        if (wrong := _wrongly_typed(config)) is not None:
            raise TypeError(f"{wrong} is of the wrong type")
        if config.python == (manifest.get("interpreters") or {}).get("driver", {}).get("path"):
            config = replace(config, python=None)  # type: ignore[type-var]
        fits = _same_cells(plan_of(config), manifest["plan"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DamagedRunError(
            f"{path} is damaged: its settings cannot be read ({error}); start a new run"
        ) from None
    if not fits:
        raise DamagedRunError(
            f"{path} is damaged: its plan is not that of its settings; start a new run"
        )
    return config


def _same_cells(made: Sequence[Cell], recorded: Sequence[Cell]) -> bool:
    """The same trials, in whatever order, numbered as they come."""

    def cells(plan: Sequence[Cell]) -> Counter[str]:
        return Counter(
            json.dumps({k: v for k, v in cell.items() if k != "trial"}, sort_keys=True)
            for cell in plan
        )

    numbers = [cell["trial"] for cell in recorded]
    return (
        cells(made) == cells(recorded)
        and numbers == list(range(len(recorded)))
        and all(type(number) is int for number in numbers)
    )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or (isinstance(value, float) and math.isfinite(value))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _server(spec: AnyServer) -> bool:
    return _text(spec.label) and _text(spec.architecture) and all(map(_text, spec.options))


_TYPES: dict[str, Callable[[Any], bool]] = {
    "int": _whole,
    "float": _number,
    "str": _text,
    "str | None": lambda value: value is None or _text(value),
    "tuple[int, ...]": lambda values: all(map(_whole, values)),
    "tuple[float, ...]": lambda values: all(map(_number, values)),
    "tuple[AnyServer, ...]": lambda values: all(map(_server, values)),
}
"""What a field of settings may be annotated with, and what proves it of a value from JSON."""


def _wrongly_typed(config: Settings) -> str | None:
    """The first setting that is not of its type: what JSON can say and a run cannot use."""
    return next(
        (
            field.name
            for field in fields(config)  # type: ignore[arg-type]
            if not _TYPES[str(field.type)](getattr(config, field.name))
        ),
        None,
    )
