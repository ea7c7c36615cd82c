"""The run folder of a swarm, written while the swarm works.

The master keeps what was measured in one file of JSON and rewrites it every
second; `SwarmFolder.take` turns each version into rows, records and a timeline.
So whatever is killed, master, workers or this process, the folder has what was
measured until a second or two before, and everything that reads run folders
reads it.

A row is not final before the swarm's end: replies of a trial come in while the
next has begun.  Until then rows are replaced, and one whose trial did not last
as long as asked says so and is not valid.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from sedabench.figures.swarm import TIMELINE
from sedabench.machine import facts as machine
from sedabench.results.folder import Column, RunWriter, Value, utc_now, write_atomically
from sedabench.swarm import server as swarm_server
from sedabench.swarm.server import Moment, ServerWatch
from sedabench.swarm.settings import Swarm
from sedabench.trials import http_columns

COLUMNS = (
    *http_columns.COLUMNS,
    Column("workers", "int", "", "workers whose engine took part in the trial"),
    Column("asked_rps", "float", "1/s", "the rate times the load, the mean over the trial"),
)

ENOUGH = 0.95
"""A trial that lasted this share of what was asked is whole: workers begin at their own time."""


class _Writer(RunWriter):
    """A writer whose rows may be replaced while the swarm works."""

    def put(self, row: Mapping[str, Value], raw: Mapping[str, Any]) -> None:
        number = str(row["trial"])
        self._rows = [known for known in self._rows if known["trial"] != number]
        self.add(row, raw)


class SwarmFolder:
    """Made when there is something to keep: a swarm that could not begin leaves no folder."""

    def __init__(
        self, path: Path, config: Swarm, workers: int, watch: ServerWatch, said: Mapping[str, Any]
    ) -> None:
        self.path = path
        self.config = config = _as_begun(config, said["parameters"])
        self._watch = watch
        self._started_utc = utc_now()
        self._load_1m = os.getloadavg()[0]
        self._seen: dict[int, Any] = {}
        plan = [{"trial": number, "phase": _phase(config)} for number in range(config.trials)]
        manifest = {
            "experiment": "swarm", "status": "running", "started_utc": self._started_utc,
            "ended_utc": None,
            "parameters": {**asdict(config), "servers": [self._server()], "workers": workers},
            "seed": config.seed, "command": machine.command_line(), "warnings": [], "resumed": [],
            "versions": machine.versions(), "git": machine.git_state(), "machine": machine.facts(),
            "machines": {}, "plan": plan,
        }  # fmt: skip
        self._writer = cast(_Writer, _Writer.create(path, manifest, COLUMNS))
        self._plan = plan

    def take(self, said: Mapping[str, Any], ended: str = "") -> None:
        """Keep a version of the master's file.  `ended`: why it is the last, if it is."""
        complete = True
        for trial in said["trials"][: len(self._plan)]:
            whole = trial["result"]["duration_s"] >= ENOUGH * self.config.duration
            complete = complete and whole
            version = (trial["result"], whole, len(self._moments(trial, said)))
            if self._seen.get(trial["trial"]) != version:
                self._seen[trial["trial"]] = version
                self._writer.put(*self._row(trial, said, whole))
        write_atomically(self.path / TIMELINE, json.dumps(said["timeline"]).encode())
        fields: dict[str, Any] = {
            "machines": said["workers"],
            "warnings": [*said["warnings"], *([said["error"]] if said["error"] else [])],
        }
        if ended:
            complete = complete and len(said["trials"]) >= len(self._plan) and not said["error"]
            if said["status"] != "complete":
                complete = False
                fields["warnings"].append(f"{ended}; this is what it had measured until then")
            status = "complete" if complete else "interrupted"
            fields |= {"status": status, "ended_utc": utc_now()}
        if any(self._writer.manifest[name] != value for name, value in fields.items()):
            self._writer.update(**fields)

    def close(self) -> None:
        self._writer.close()

    def _server(self) -> dict[str, Any]:
        said = self._watch.moments[-1].stats if self._watch.moments else {}
        kind = str(said.get("architecture", "external"))
        return {"label": self.config.target, "architecture": kind, "options": []}

    def _moments(self, trial: Mapping[str, Any], said: Mapping[str, Any]) -> list[Moment]:
        return self._watch.between(*(said["begun_s"] + trial[end] for end in ("begin_s", "end_s")))

    def _row(
        self, trial: Mapping[str, Any], said: Mapping[str, Any], whole: bool
    ) -> tuple[dict[str, Value], dict[str, Any]]:
        config = self.config
        result = {**trial["result"], "timeline": _part(said["timeline"], trial)}
        begun_s = said["begun_s"]
        begin_s = begun_s + trial["begin_s"]
        moments = self._moments(trial, said)
        of_server, odd = swarm_server.columns(moments, said["timeline"], begun_s)
        if len(moments) < 2 and self._watch.host:
            odd = [swarm_server.UNANSWERED]
        reasons, server = list(result["invalid_reasons"]), self._server()
        if not whole:
            reasons.insert(0, f"it ended after {result['duration_s']:.1f} of {config.duration:g} s")
        row: dict[str, Value] = dict.fromkeys(column.name for column in COLUMNS)
        row.update(http_columns.of_result(result))
        row.update(
            trial=trial["trial"], block=0, phase=trial["phase"], server=config.target,
            architecture=server["architecture"], server_options="",
            workload=config.mix or "path", load=trial["load"], connections=result["connections"],
            workers=result["workers"], asked_rps=result["rate"], started_utc=self._started_utc,
            warmup_s=config.warmup, valid=not reasons, invalid_reason=" | ".join(reasons),
            warnings=" | ".join([*result["warnings"], *odd]), server_errors="",
            load_1m=self._load_1m,
        )  # fmt: skip
        row.update(of_server)
        return row, {"server": server, "result": result, **swarm_server.raw(moments, begin_s)}


def _as_begun(config: Swarm, parameters: Mapping[str, Any]) -> Swarm:
    """With what was changed in Locust's web page."""
    known = {
        name: parameters[name] for name in asdict(config) if parameters.get(name) not in (None, "")
    }
    return replace(config, **known)


def _phase(config: Swarm) -> str:
    return {"overload": "sweep", "spike": "spike"}.get(config.shape, "steady")


def _part(timeline: Mapping[str, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
    """The trial's bins, and their times from its begin."""
    width_s = timeline["bin_s"]
    first = round(trial["begin_s"] / width_s)
    last = max(first + 1, round(trial["end_s"] / width_s))
    part = {
        name: values[first:last] if isinstance(values, list) else values
        for name, values in timeline.items()
    }
    return part | {"t_s": [round(n * width_s, 3) for n in range(len(part["t_s"]))]}
