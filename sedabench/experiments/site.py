"""The service `web` under the workloads of `overload` and `peers`: what both sides are told.

workload   the load generator's mix   the service
dynamic    dynamic                    300 us of computing a request; no files
mixed      mixed                      the modelled disk of the paper's section 3.2 (5 ms, 40 reads
                                      at once) behind a cache too small for what is rarely asked
static     specweb99                  the files of SPECweb99 through the page cache

What is the same for every server of a run is made once: the document root,
kept in the user's cache folder from run to run, and the number of loops that a
microsecond of computing is, measured on the servers' core with the servers'
interpreter and recorded in the manifest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from sedabench.errors import UserError
from sedabench.experiments.base import Experiment, Rig
from sedabench.experiments.bench import Bench
from sedabench.experiments.plan import Cell
from sedabench.machine.process import Child, ChildError, finish
from sedabench.trials import http_columns
from sedabench.trials.trial import READY_S, Measured, Workload, after

MIXES = {"dynamic": "dynamic", "mixed": "mixed", "static": "specweb99"}
"""workload -> the load generator's mix."""

DOCROOT_BYTES, DOCROOT_SEED = 200_000_000, 1
MAKING_S = 300.0
"""How long the document root may take; on this machine 1 to 8 s."""


@dataclass(frozen=True)
class Site:
    """What is served, the same for every server of a run."""

    workload: str
    loops_per_us: float
    docroot: Path | None

    @classmethod
    def prepare(cls, workload: str, bench: Bench, recorded: Mapping[str, Any]) -> Self:
        """Calibrate, unless `recorded` (a manifest) says what a run began with; make the files.

        Raises:
            UserError: the document root cannot be made.
        """
        loops = recorded.get("compute_loops_per_us") or calibrate(bench)
        return cls(workload, loops, None if workload == "dynamic" else make_docroot())

    def service_options(self) -> tuple[str, ...]:
        options = ["--compute-loops-per-us", str(self.loops_per_us)]
        if self.docroot is not None:
            options += ["--docroot", str(self.docroot)]
        if self.workload == "mixed":
            from loadgen.demand.mixes import MIXED_CACHE_BYTES

            options += ["--cache-bytes", str(MIXED_CACHE_BYTES)]
            options += ["--disk-ms", "5", "--disk-slots", "40"]
        return tuple(options)

    def load(
        self,
        arguments: Mapping[str, object],
        *,
        tail_s: float = 0.0,
        poll_s: float | None = None,
        path: str | None = None,
    ) -> Workload:
        """A trial's workload; `arguments` are the load generator's options, without the mix.

        They name at least connections, warmup and duration.  With a `path` all
        requests are for it, and there is no mix.
        """
        words = [word for name, value in arguments.items() for word in (f"--{name}", str(value))]
        mix = ("--mix", MIXES[self.workload]) if path is None else ()
        return Workload(
            name="http",
            columns=http_columns,
            arguments=(*words, *mix, "--events"),
            service="web",
            service_options=self.service_options(),
            connections=int(str(arguments["connections"])),
            warmup_s=float(str(arguments["warmup"])),
            duration_s=float(str(arguments["duration"])),
            tail_s=tail_s,
            target=f"http://{{address}}{path or '/'}",
            docroot=self.docroot,
            offered=self.workload,
            poll_s=poll_s,
        )


_ANY_SPEED = {"compute_loops_per_us": 1.0}
"""To try a server with, no calibration is needed."""


class SiteExperiment(Experiment):
    """An experiment that serves a site: what its trials share is the `Site`."""

    def offered(self, settings: Any) -> str:
        return "dynamic"

    def prepare(self, bench: Bench, settings: Any, recorded: Mapping[str, Any]) -> Site:
        return Site.prepare(self.offered(settings), bench, recorded)

    def prepare_to_try(self, bench: Bench, settings: Any) -> Site:
        return Site.prepare(self.offered(settings), bench, _ANY_SPEED)

    def manifest(self, settings: Any, shared: Site) -> dict[str, Any]:
        return {"compute_loops_per_us": shared.loops_per_us}

    def measure(self, rig: Rig, cell: Cell) -> Measured:
        measured = super().measure(rig, cell)
        measured.row.update(workload=self.offered(rig.settings))
        return measured


def calibrate(bench: Bench) -> float:
    """Loops of computing in a microsecond: the servers' interpreter, on the servers' core.

    Raises:
        UserError: the interpreter did not say.
    """
    command = [bench.interpreter.path, "-P", "-m", "servers.services.compute"]
    environment = bench.interpreter.environment
    try:
        with Child(
            "the calibration", command, cores=bench.cores.server, environment=environment
        ) as child:
            return float(child.next_message(after(READY_S), "measure")["loops_per_us"])
    except (ChildError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{bench.interpreter.path} could not be calibrated: {error}") from None


def make_docroot() -> Path:
    """The document root in the user's cache folder, made at its first use (XDG base directories).

    Root's is not in its home: a server that changes its user must get there too.

    Raises:
        UserError: it cannot be made.
    """
    home = Path("/var/cache") if os.geteuid() == 0 else Path.home() / ".cache"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home)
    path = cache / "sedabench" / f"docroot-{DOCROOT_BYTES // 10**6}MB-{DOCROOT_SEED}"
    command = [
        sys.executable, "-P", "-m", "servers.services.docroot", str(path),
        "--bytes", str(DOCROOT_BYTES), "--seed", str(DOCROOT_SEED),
    ]  # fmt: skip
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        done = finish(command, capture_output=True, text=True, timeout=MAKING_S, check=False)
        problem = done.stderr.strip().rpartition("\n")[2] if done.returncode else None
    except (OSError, subprocess.SubprocessError) as error:
        problem = str(error)
    if problem is not None:
        raise UserError(
            f"the document root {path} cannot be made ({problem.removeprefix('error: ')}); "
            "set XDG_CACHE_HOME to a folder with 200 MB free"
        )
    return path
