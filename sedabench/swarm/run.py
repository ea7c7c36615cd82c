"""A swarm: Locust's master and workers as processes, and the run folder of what they measured.

The master is `locust -f loadgen/locustfile.py --master`; it keeps what was
measured in a file of JSON, rewritten every second.  This module starts it, and
with `--local N` its workers too, and has each version of that file made into
the run folder (`swarm_folder.py`).  Whatever ends, what was measured is kept.

This is also the experiment `swarm` for everything that reads run folders:
`draw` and `show` at the end.
"""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sedabench import scratch
from sedabench.errors import StoppedBySignal, UserError, one_line
from sedabench.experiments.plan import signals_as_exceptions
from sedabench.machine.process import Child, before_exec
from sedabench.results.folder import Run, check_new_folder, load_run
from sedabench.swarm.folder import SwarmFolder
from sedabench.swarm.server import ServerWatch

if TYPE_CHECKING:
    from rich.console import Console

NAME = "swarm"
SUMMARY = "one load from many machines, through Locust's master and workers"

POLL_S = 0.2

STOP_S = 15.0
"""How long the master may take to stop its workers and to write what it has."""


@dataclass(frozen=True)
class Swarm:
    """What is asked of a swarm; names are those of the locustfile's options."""

    target: str
    rate: float = 1000.0
    shape: str = "steady"
    duration: float = 10.0
    warmup: float = 1.0
    loads: str = "0.5,1,1.5,2"
    spike: str = "3,5,5"
    arrivals: str = "poisson"
    mix: str = ""
    connections: int = 64
    timeout: float = 5.0
    slo: float = 100.0
    seed: int = 1
    spin: bool = False
    admin: str = ""
    allow_remote: bool = False

    def arguments(self) -> list[str]:
        """As options of the locustfile."""
        found = []
        for name, value in asdict(self).items():
            option = "--" + name.replace("_", "-")
            if isinstance(value, bool):
                found += [option] if value else []
            elif value != "":
                found += [option, f"{value}"]
        return found

    @property
    def trials(self) -> int:
        return len(self.loads.split(",")) if self.shape == "overload" else 1

    @property
    def lasts_s(self) -> float:
        return self.trials * (self.warmup + self.duration)


def own_duration_s(shape: str, spike: str) -> float:
    """How long the trials of a shape count if nobody says.

    Raises:
        UserError: `spike` is no F,AT,FOR.
    """
    from loadgen.errors import LoadError
    from loadgen.swarm.plan import spike_duration_s

    if shape != "spike":
        return 10.0
    try:
        return spike_duration_s(spike)
    except LoadError as error:
        raise UserError(str(error)) from None


def locust_command() -> list[str]:
    """The interpreter, Locust and our locustfile, found without importing either."""
    from importlib.util import find_spec

    spec = find_spec("loadgen")
    assert spec is not None
    assert spec.submodule_search_locations
    return [
        sys.executable, "-P", "-m", "locust",
        "-f", str(Path(spec.submodule_search_locations[0]) / "locustfile.py"),
    ]  # fmt: skip


# -- a worker -----------------------------------------------------------------------------


def work(host: str, port: int, *, allow_remote: bool, wait_s: float) -> int:
    """Be a worker until the master says that it is over; Locust's exit status.

    Raises:
        UserError: there is no master at that address.
    """
    _reach(host, port, wait_s)
    environment = {**os.environ, "SEDABENCH_CONNECT_RETRIES": "2"}
    command = [
        *locust_command(), "EngineUser", "--worker", "--master-host", host,
        "--master-port", f"{port}", "--loglevel", "ERROR",
    ]  # fmt: skip
    process = subprocess.Popen(
        [*command, *(["--allow-remote"] if allow_remote else [])],
        env=environment, stderr=subprocess.PIPE, text=True, process_group=0,
        preexec_fn=before_exec((), os.getpid()),
    )  # fmt: skip
    try:
        with signals_as_exceptions():
            text = process.communicate()[1]
    except KeyboardInterrupt:  # let it say goodbye to the master
        process.send_signal(signal.SIGTERM)
        try:
            process.communicate(timeout=STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        raise
    said = [line for line in text.splitlines() if line.strip()]
    if process.returncode == 255:
        raise UserError(f"{host}:{port} answers, but it is no Locust master; name its --port")
    own = [line for line in said if line.startswith("error: ")]
    if own:
        raise UserError(own[-1].removeprefix("error: "))
    for line in said:
        print(line, file=sys.stderr)
    return process.returncode


def _reach(host: str, port: int, wait_s: float) -> None:
    deadline_s = time.monotonic() + wait_s
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.2, wait_s)).close()
            return
        except OSError as error:
            if time.monotonic() > deadline_s:
                reason = error.strerror or "it does not answer"
                raise UserError(
                    f"no master at {host}:{port} ({reason}); start it there with "
                    "sedabench swarm --master, or name another with --master-host and --port"
                ) from None
            time.sleep(POLL_S)


# -- the master ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Where:
    """Of the master: what it binds, how many workers it waits for, which it starts itself."""

    workers: int
    local: bool
    bind: str = "127.0.0.1"
    port: int = 5557
    web_port: int | None = None
    """Of Locust's web page; None: no page, the run starts by itself."""


Say = Callable[[str], None]


def conduct(config: Swarm, where: Where, out: Path, say: Say) -> tuple[list[Run], int | None]:
    """Run a swarm and keep what it measured in the folder `out`, as it goes.

    Returns the run, and the signal that ended it early, if one did; with the web
    page there may be several runs, in `out`, `out-2`, ...

    Raises:
        UserError: it could not begin; `out` is not new or empty.
    """
    check_new_folder(out)
    _check_free(where)
    watch = ServerWatch(config.admin)
    try:
        watch.check()
    except UserError as error:
        if where.web_port is None:
            raise
        say(f"warning: {error}")  # it may be started before the run is
    keep = _Keeper(config, where.workers, out, watch)
    with scratch.folder() as folder:
        keep.record = folder / "record.json"
        stop: KeyboardInterrupt | None = None
        try:
            ended = _run(config, where, keep, say)
        except KeyboardInterrupt as interruption:
            ended, stop = "it was interrupted", interruption
        keep.look(ended)
    if not keep.folders:
        raise stop or UserError(keep.error or ended)
    runs = [load_run(folder) for folder in keep.folders]
    if stop is None:
        return runs, None
    return runs, stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT


class _Keeper:
    """Looks at the master's file, and has a folder for each run that it tells of."""

    record: Path

    def __init__(self, config: Swarm, workers: int, out: Path, watch: ServerWatch) -> None:
        self.config, self.workers, self.out, self.watch = config, workers, out, watch
        self.folders: list[Path] = []
        self.error = ""
        self._version = 0
        self._folder: SwarmFolder | None = None
        self._said: dict[str, Any] = {}

    def look(self, ended: str = "") -> None:
        """`ended`: how the master did, at the last look."""
        self.watch.look()
        try:
            version = self.record.stat().st_mtime_ns
        except FileNotFoundError:
            return
        if version == self._version and not ended:
            return
        self._version = version
        said = json.loads(self.record.read_text())
        self.error = said["error"]
        if self._folder is not None and said["run"] != self._said["run"]:
            self._close("it was started again")
        if said["trials"]:
            if self._folder is None:
                number = len(self.folders) + 1
                path = self.out if number == 1 else self.out.with_name(f"{self.out.name}-{number}")
                self._folder = SwarmFolder(path, self.config, self.workers, self.watch, said)
                self.folders.append(path)
            self._folder.take(said)
            self._said = said
        if ended:
            self._close(ended)

    def _close(self, why: str) -> None:
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.take(self._said, why)
            folder.close()


def _check_free(where: Where) -> None:
    for port in (where.port, where.web_port):
        if port is None:
            continue
        with socket.socket(socket.AF_INET6 if ":" in where.bind else socket.AF_INET) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((where.bind if port == where.port else "127.0.0.1", port))
            except OSError as error:
                option = "--port" if port == where.port else "--web"
                if error.errno == errno.EADDRNOTAVAIL:
                    raise UserError(
                        f"cannot listen on {where.bind}: it is no address of this machine; "
                        "name one with --bind"
                    ) from None
                raise UserError(
                    f"cannot listen on port {port} ({error.strerror}); name another with {option}"
                ) from None


def _run(config: Swarm, where: Where, keep: _Keeper, say: Say) -> str:
    """Until the master ends; how it did, in words."""
    command = [
        *locust_command(), "EngineUser", "--master", "--expect-workers", f"{where.workers}",
        "--master-bind-host", where.bind, "--master-bind-port", f"{where.port}",
        "--loglevel", "WARNING", "--only-summary", "--record", f"{keep.record}",
        *config.arguments(),
    ]  # fmt: skip
    if where.web_port is None:
        command.append("--headless")
    else:
        command += ["--web-host", "127.0.0.1", "--web-port", f"{where.web_port}"]
        say(f"web page: http://127.0.0.1:{where.web_port} (start and stop there; Ctrl-C ends)")
    worker = [
        *locust_command(), "EngineUser", "--worker", "--master-host", where.bind,
        "--master-port", f"{where.port}", "--loglevel", "ERROR",
        *(["--allow-remote"] if config.allow_remote else []),
    ]  # fmt: skip
    with ExitStack() as stack:
        stack.enter_context(signals_as_exceptions())
        master = stack.enter_context(Child("master", command))
        workers = [
            stack.enter_context(Child(f"worker {number}", worker))
            for number in range(where.workers if where.local else 0)
        ]
        if not where.local:
            say(f"waiting for {where.workers} workers: sedabench swarm --worker --master-host HOST")
        gone: set[Child] = set()
        told = ""
        try:
            while master.returncode is None:
                for child in workers:
                    if child.returncode not in (None, 0) and child not in gone:
                        gone.add(child)
                        say(f"{child.name} (process {child.pid}) ended; the others go on")
                if workers and len(gone) == len(workers) and not keep.folders:
                    raise UserError("all workers ended before anything was measured")
                keep.look()
                news = _news(config, where, keep)
                if news not in ("", told):
                    say(news)
                told = news
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            _interrupt(master.pid)
            deadline_s = time.monotonic() + STOP_S
            while master.returncode is None and time.monotonic() < deadline_s:
                time.sleep(POLL_S / 4)
            raise
        return f"the master ended with exit status {master.stop(STOP_S)}"


def _news(config: Swarm, where: Where, keep: _Keeper) -> str:
    """For whoever waits at the terminal."""
    if where.web_port is not None:
        return f"error: {keep.error}" if keep.error else ""
    return f"all workers are ready; it takes about {config.lasts_s:g} s" if keep.folders else ""


def _interrupt(pid: int) -> None:
    """Locust without its page hears nothing else: it stops the workers and writes what it has."""
    try:
        os.kill(pid, signal.SIGINT)
    except ProcessLookupError:
        pass


# -- the experiment, for those who read run folders ---------------------------------------


def draw(run: Run) -> list[Path]:
    """`timeline.png` and `.svg`; nothing when there is no timeline to draw."""
    from sedabench.figures import plots
    from sedabench.figures import swarm as plots_swarm

    figure = plots_swarm.timeline(run)
    return plots.save(figure, run.path / "timeline") if figure else []


def show(run: Run, console: Console) -> None:
    """Print the table of trials, and what is to be known about them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in (
        "trial", "load", "workers", "asked/s", "offered/s", "answered/s", "good/s", "p50 ms",
        "p99 ms", "valid",
    ):  # fmt: skip
        table.add_column(heading, justify="right", no_wrap=True)
    for trial in run.trials.to_dict("records"):
        table.add_row(
            str(trial["trial"]), f"{trial['load']:g}", str(trial["workers"]),
            *(f"{trial[name]:,.1f}" for name in
              ("asked_rps", "offered_rps", "throughput_rps", "goodput_rps")),
            *(_ms(trial[name]) for name in ("latency_p50_us", "latency_p99_us")),
            "yes" if trial["valid"] else "NO",
        )  # fmt: skip
    console.print(table)
    said = list(run.manifest["warnings"])
    for trial in run.trials.to_dict("records"):
        lines = [] if trial["valid"] else [f"not valid: {trial['invalid_reason']}"]
        failed = ", ".join(f"{trial[name]:,} {words}" for name, words in FAILED if trial[name])
        if failed:
            lines.append(f"of {trial['scheduled']:,} requests: {failed}")
        own = trial["warnings"].split(" | ") if isinstance(trial["warnings"], str) else []
        lines += [f"warning: {text}" for text in own if text and text not in said]
        for line in lines:
            console.print(f"trial {trial['trial']}: {line}", markup=False, highlight=False)
    for warning in said:
        console.print(f"warning: {one_line(warning)}", markup=False, highlight=False)


FAILED = (
    ("rejected", "rejected (503)"), ("wrong", "wrong replies"), ("timeouts", "timed out"),
    ("connection_errors", "lost with their connection"), ("never_sent", "never sent"),
)  # fmt: skip


def _ms(latency_us: float) -> str:
    return "-" if math.isnan(latency_us) else f"{latency_us / 1e3:,.3f}"
