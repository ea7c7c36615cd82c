"""What a run says in words and tables: asked, found, medians, trials, validity, machine, again.

Nothing is measured or judged here: sentences are those that the command
prints, medians those of the figures.  Text of a folder may be anything; what
cannot be seen is made visible, and the template escapes the rest.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sedabench.errors import one_line
from sedabench.experiments.base import Experiment
from sedabench.figures.charts import Chart, Panel, servers
from sedabench.report.trials import Column, Reason, Row, columns_of, number, reasons, rows_of
from sedabench.results.folder import Run

Fact = tuple[str, str]

NOTHING = "\u2013"
"""Stands where there is no value."""

_TOLD_ELSEWHERE = frozenset((
    "schema", "experiment", "status", "started_utc", "ended_utc", "parameters",
    "seed", "command", "warnings", "resumed", "cores", "interpreters",
    "versions", "git", "machine", "plan", "columns",
))  # fmt: skip
"""What of a manifest the page says in its own words."""


@dataclass(frozen=True)
class Medians:
    """The numbers of a panel as a table: a row a level, a column a series."""

    title: str
    unit: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Section:
    """A run on the page."""

    id: str
    experiment: str
    question: str
    path: str
    started: str
    status: str
    tiles: tuple[Fact, ...]
    asked: tuple[Fact, ...]
    servers: tuple[tuple[str, str, str], ...]
    command: str
    found: tuple[str, ...]
    charts: tuple[tuple[Chart, tuple[Medians, ...]], ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    invalid: tuple[Reason, ...]
    warned: tuple[Reason, ...]
    warnings: tuple[str, ...]
    machine: tuple[Fact, ...]
    limits: tuple[Fact, ...]
    versions: tuple[Fact, ...]
    again: tuple[str, ...]
    code: str
    changed: bool
    rest: str


def section(run: Run, number: int, experiment: Experiment) -> Section:
    """Everything that the page says of a run; `number` is its place on the page, from 1."""
    manifest = run.manifest
    parameters: dict[str, Any] = manifest["parameters"]
    machine: dict[str, Any] = dict(manifest.get("machine") or {})
    deep = {k: machine.pop(k, None) or {} for k in ("limits", "sysctls")}
    git = dict(manifest.get("git") or {})
    columns = columns_of(run)
    valid = run.trials["valid"]
    command = [str(word) for word in manifest.get("command") or ()]
    rest = {key: value for key, value in manifest.items() if key not in _TOLD_ELSEWHERE}
    return Section(
        id=f"run{number}",
        experiment=manifest["experiment"],
        question=experiment.summary,
        path=_path(run),
        started=str(manifest.get("started_utc") or ""),
        status=_status(run),
        tiles=_tiles(run),
        asked=(
            *((_words(k), _text(v, k)) for k, v in parameters.items() if k != "servers"),
            *((_words(k), _text(v, k)) for k, v in rest.items() if k.startswith("capacity")),
        ),
        servers=_servers(parameters.get("servers") or ()),
        command=shlex.join(command),
        found=tuple(experiment.sentences(run)),
        charts=tuple(
            (c, tuple(_medians(p) for p in c.panels if _tabled(p))) for c in experiment.charts(run)
        ),
        columns=columns,
        rows=rows_of(run.trials, columns),
        invalid=reasons(run.trials[~valid], "invalid_reason"),
        warned=reasons(run.trials, "warnings"),
        warnings=(
            *([experiment.note] if experiment.note else []),
            *(str(text) for text in manifest.get("warnings") or ()),
        ),
        machine=(*_facts(machine), *_programs(manifest)),
        limits=(
            *(
                (f"limit {name}", "unlimited" if v is None else str(v))
                for name, v in deep["limits"].items()
            ),
            *_as_named(deep["sysctls"]),
        ),
        versions=_as_named(manifest.get("versions") or {}),
        again=_again(run, command, number),
        code=str(git.get("commit") or ""),
        changed=bool(git.get("dirty")),
        rest=json.dumps(rest, indent=1) if rest else "",
    )


def _path(run: Run) -> str:
    """As it was named; the folder's own name where that says nothing, as of "."."""
    return str(run.path) if run.path.name not in ("", "..") else run.path.resolve().name


def _status(run: Run) -> str:
    """What a reader must know before the numbers; empty of a complete run."""
    planned, finished = len(run.manifest["plan"]), len(run.trials)
    if planned == finished:
        return ""
    return (
        f"This run is not complete: {finished} of {planned} planned trials are finished "
        f"(status: {run.manifest.get('status')})."
    )


def _tiles(run: Run) -> tuple[Fact, ...]:
    parameters, valid = run.manifest["parameters"], int(run.trials["valid"].sum())
    tiles = [("trials valid", f"{valid} of {len(run.trials)}")]
    if there := len(servers(run)):
        tiles.append(("servers", str(there)))
    for key, name in (("repeats", "repeats"), ("duration_s", "window")):
        if key in parameters:
            tiles.append((name, _text(parameters[key], key)))
    if (took := _took(run.manifest)) is not None:
        tiles.append(("took", took))
    return tuple(tiles)


def _took(manifest: Mapping[str, Any]) -> str | None:
    try:
        begin, end = (
            datetime.fromisoformat(str(manifest[k])) for k in ("started_utc", "ended_utc")
        )
        seconds = (end - begin).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


# -- asked --------------------------------------------------------------------------------

_UNITS = {"_s": "s", "_ms": "ms", "_us": "us", "_bytes": "B", "_rps": "requests/s", "_utc": "UTC"}


def _split(name: str) -> tuple[str, str]:
    """ "duration_s" -> "duration", "s"."""
    ending = next((e for e in sorted(_UNITS, key=len, reverse=True) if name.endswith(e)), "")
    return (name.removesuffix(ending), _UNITS[ending]) if ending else (name, "")


def _words(name: str) -> str:
    return _split(name)[0].replace("_", " ")


def _text(value: Any, name: str = "") -> str:
    """A value of the manifest for a reader, with the unit that its name ends in."""
    unit = _split(name)[1]
    if value is None or value in ("", [], {}):
        return NOTHING
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_text(v, name)}" for key, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        text = ", ".join(_text(v) for v in value)
    elif isinstance(value, bool):
        text = "yes" if value else "no"
    elif name == "memory_bytes":
        return f"{value / 2**30:.1f} GiB"
    elif isinstance(value, float):
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    else:
        text = str(value)
    return f"{text} {unit}".rstrip()


def _servers(specs: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, str, str], ...]:
    return tuple(
        (str(spec["label"]), str(spec["architecture"]),
         shlex.join(str(word) for word in spec.get("options") or ()))
        for spec in specs
    )  # fmt: skip


# -- numbers of a figure ------------------------------------------------------


def _tabled(panel: Panel) -> bool:
    """Curves over levels are a table too; a timeline or a distribution would be too long."""
    return any(one.trials for one in panel.series) and not panel.x.percentile


def _medians(panel: Panel) -> Medians:
    levels = sorted({x for one in panel.series for x in one.x})
    rows = []
    for level in levels:
        cells = [f"{level:g}"]
        for one in panel.series:
            at = one.x.index(level) if level in one.x else None
            cells.append(NOTHING if at is None else _median(one, at))
        rows.append(tuple(cells))
    heads = (panel.x.label.split(" (")[0], *(one.key for one in panel.series))
    return Medians(panel.title, panel.y.unit, heads, tuple(rows))


def _median(one: Any, at: int) -> str:
    if one.y[at] is None:
        return NOTHING
    value = number(one.y[at])
    if one.valid[at] == 1:
        return value
    star = "*" if one.ranged[at] else ""
    return f"{value} [{number(one.low[at])}, {number(one.high[at])}]{star}"


# -- machine, and how to do it again ------------------------------------------------------


def _facts(found: Mapping[str, Any]) -> tuple[Fact, ...]:
    return tuple((_words(str(key)), _text(value, str(key))) for key, value in found.items())


def _as_named(found: Mapping[str, Any]) -> tuple[Fact, ...]:
    """Names that belong to somebody else, as they are."""
    return tuple((str(name), _text(value)) for name, value in found.items())


def _programs(manifest: Mapping[str, Any]) -> tuple[Fact, ...]:
    told: list[Fact] = []
    for who, core in (manifest.get("cores") or {}).items():
        told.append((f"core of the {who}", _text(core)))
    for who, facts in (manifest.get("interpreters") or {}).items():
        if isinstance(facts, Mapping):
            name = facts.get("title") or f"{facts.get('implementation')} {facts.get('version')}"
            compiler = f", {facts['compiler']}" if facts.get("compiler") else ""
            told.append((f"interpreter of the {who}", f"{name}{compiler}"))
    if manifest.get("load_average_at_end"):
        told.append(("load average at the end", _text(manifest["load_average_at_end"])))
    return tuple(told)


def _again(run: Run, command: Sequence[str], number: int) -> tuple[str, ...]:
    """Commands, in order, that measure the same again and compare.

    A run that a script or a resumed suite made has no command that makes it alone.
    """
    commit = (run.manifest.get("git") or {}).get("commit")
    lines = [f"git checkout {shlex.quote(str(commit))}", "make setup"] if commit else []
    name, *words = command or ("",)
    if name == "sedabench" and "--resume" not in words:
        suite = any(word.endswith(".toml") for word in words[1:2])
        out = "results/again" if suite or number == 1 else f"results/again-{number}"
        lines.append(shlex.join([name, *_without_out(words), "--out", out]))
        again = f"{out}/{run.path.name}" if suite else out
        lines.append(shlex.join([name, "compare", _path(run), again]))
    return tuple(one_line(line) for line in lines)


def _without_out(words: Sequence[str]) -> list[str]:
    """The arguments without `--out FOLDER`: it is not empty any more."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != "--out" and not word.startswith("--out="):
            kept.append(word)
        skip = word == "--out"
    return kept
