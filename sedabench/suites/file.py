"""A suite: experiments and their settings in one TOML file, read and checked; docs/suites.md.

Every complaint about such a file is made here, in one line that names the file
and the run, before anything starts.  Keys and values of a run are those of
`sedabench.run`, and go through the same checks (`experiments.configure`).
Paths in a file are relative to the file.  `carry_out` carries a suite out.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sedabench.errors import UserError, unknown
from sedabench.experiments.base import Experiment
from sedabench.experiments.carry_out import check, lasts_s, plan_of
from sedabench.experiments.configure import COMMON_KEYS, configure, keys_of
from sedabench.experiments.registry import EXPERIMENTS, runnable
from sedabench.experiments.settings import at, converted, validated, wrong
from sedabench.machine.facts import nearby

SUITE, RECORD = "suite.toml", "suite.json"
"""In a suite's folder: the file as it was, and how far it has come."""

MAX_RUNS = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SERVER_FILE = re.compile(
    r"(\s*(?:[^\s=/-][^\s=/]*\s*=)?\s*)([^\s=]*(?:\.py|/[^\s:]*))(:.*)", re.DOTALL
)
_START_S, _SERVER_START_S = 1.0, 0.8
"""What a run takes beside its trials, about: in all, and to try a server out."""


class _Document(BaseModel):
    """The keys at the top of a file."""

    model_config = ConfigDict(extra="forbid")

    name: Any = None
    title: Any = ""
    defaults: dict[str, Any] = {}
    run: list[dict[str, Any]] = Field(default_factory=list, validate_default=True)

    @field_validator("title", mode="after")
    @classmethod
    def _is_a_text(cls, value: Any) -> Any:
        return _text(value)

    @field_validator("defaults", mode="before")
    @classmethod
    def _is_a_table(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise wrong("is no table; write [defaults] and keys under it")
        for key in value:
            if key in RUN_KEYS:
                raise wrong(f"has {key}, which belongs to a run; write it under its [[run]]")
        return value

    @field_validator("run", mode="before")
    @classmethod
    def _are_tables(cls, value: Any) -> Any:
        if not isinstance(value, list) or not all(isinstance(table, dict) for table in value):
            raise wrong("is no list of runs; it needs tables [[run]], twice bracketed")
        if not value:
            raise wrong("is lacking; a suite has at least one table [[run]]")
        return value


class _Table(BaseModel):
    """The keys of a run that are no settings of its experiment; those are kept beside them."""

    model_config = ConfigDict(extra="allow")

    experiment: Any
    name: Any = None
    factors: dict[str, Any] = {}

    @field_validator("experiment", mode="after")
    @classmethod
    def _is_a_text(cls, value: Any) -> Any:
        return _text(value)

    @field_validator("factors", mode="before")
    @classmethod
    def _is_a_table_of_lists(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise wrong("is a table of lists; write factors = { slo_ms = [50, 100] }")
        return value


RUN_KEYS = tuple(_Table.model_fields)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(f"must be a text, not {value!r}")
    return value


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite; `name` is its folder."""

    name: str
    experiment: Experiment
    config: Any
    trials: int
    estimate_s: float

    def trial_s(self, cell: Mapping[str, Any]) -> float:
        """About how long a trial takes, in seconds."""
        return self.experiment.estimate_s(self.config, cell)


@dataclass(frozen=True)
class Suite:
    """A file that was read and can be carried out on this machine."""

    name: str
    title: str
    text: bytes
    base: Path
    """The folder to which its paths are relative."""
    runs: tuple[PlannedRun, ...]


def read(path: Path, base: Path | None = None) -> Suite:
    """Read and check a suite; `base` is where its paths begin, if not in the file's folder.

    Raises:
        UserError: it cannot be read, has an unknown key, or asks for what cannot be.
    """
    shown = nearby(str(path))
    text, said = _document(path, shown)
    with at(shown):
        document = validated(_Document, dict(said), "key")
    base = (base or path.parent).absolute()
    tables = [_table(table, n, base, shown) for n, table in enumerate(document.run, start=1)]
    _check_defaults(document.defaults, tables, shown)
    found: dict[str, PlannedRun] = {}
    for run in _runs(tables, document.defaults, base, shown):
        if run.name in found:
            raise UserError(
                f"{shown}: two runs are called {run.name!r}; give one a name of its own: "
                f'name = "..."'
            )
        found[run.name] = run
    name = _name(path.stem if document.name is None else document.name, shown)
    return Suite(name, document.title, text, base, tuple(found.values()))


def known_suites() -> dict[str, str]:
    """The suites of ./suites and of the project: path from here -> title."""
    found: dict[Path, str] = {}
    for folder in (Path("suites"), Path(__file__).resolve().parents[2] / "suites"):
        for path in sorted(folder.glob("*.toml")):
            try:
                title = tomllib.loads(path.read_text(encoding="utf-8")).get("title", "")
            except (OSError, ValueError):
                title = "cannot be read"
            found.setdefault(path.resolve(), str(title))
    return {nearby(str(path)): title for path, title in found.items()}


def _document(path: Path, shown: str) -> tuple[bytes, dict[str, Any]]:
    try:
        text = path.read_bytes()
        return text, tomllib.loads(text.decode("utf-8-sig"))
    except FileNotFoundError:
        there = [str(p) for p in path.parent.glob("*.toml")]
        near = difflib.get_close_matches(str(path), there, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "see docs/suites.md for how to write one"
        raise UserError(f"{shown} does not exist; {hint}") from None
    except IsADirectoryError:
        raise UserError(
            f"{shown} is a folder; to continue what is in it: "
            f"sedabench run --resume {shlex.quote(shown)}"
        ) from None
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{shown} is no TOML: {error}") from None


def _name(value: Any, where: str) -> str:
    name = _folder_name(value, where)
    if name in EXPERIMENTS:
        raise UserError(
            f"{where}: the suite cannot be called {name!r}, as an experiment is; "
            'give it another name: name = "..."'
        )
    return name


def _folder_name(value: Any, where: str) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value) or value in (SUITE, RECORD):
        raise UserError(
            f"{where}: name {value!r} cannot be that of a folder; "
            "use letters, digits, '.', '_' and '-'"
        )
    return value


# -- runs ---------------------------------------------------------------------------------


def _table(
    said: Mapping[str, Any], number: int, base: Path, shown: str
) -> tuple[_Table, Experiment]:
    """A [[run]], and the experiment that it names."""
    where = f"{shown}: run {number}"
    if "experiment" not in said:
        if near := [key for key in said if difflib.get_close_matches(key, ["experiment"])]:
            raise UserError(f"{where}: {unknown('key', near[0], ['experiment'])}")
        raise UserError(f'{where} names no experiment; write experiment = "figure1"')
    with at(where):
        table = validated(_Table, said)
        return table, runnable(_from_base(table.experiment, base))


def _check_defaults(
    defaults: Mapping[str, Any], tables: Sequence[tuple[_Table, Experiment]], shown: str
) -> None:
    """Every default must be for somebody: one that does nothing is a mistake."""
    where = f"{shown}: defaults"
    known = set().union(*(_keys_of(experiment) for _, experiment in tables))
    for key in defaults:
        if key == "definitions" and key not in known:
            raise UserError(f"{where}: no run here takes definitions; leave them out")
        if key not in known:
            raise UserError(f"{where}: {unknown('key', key, known)}")


def _keys_of(experiment: Experiment) -> set[str]:
    """What may be set for an experiment."""
    keys = {*keys_of(experiment), *COMMON_KEYS}
    return keys if experiment.definitions else keys - {"definitions"}


def _runs(
    tables: Sequence[tuple[_Table, Experiment]],
    defaults: Mapping[str, Any],
    base: Path,
    shown: str,
) -> Iterator[PlannedRun]:
    made = 0
    for number, (table, experiment) in enumerate(tables, start=1):
        name = experiment.name if table.name is None else table.name
        where = f"{shown}: run {name!r}" if isinstance(name, str) else f"{shown}: run {number}"
        own = dict(table.model_extra or {})
        factors = _factors(table.factors, own, experiment, where)
        made += math.prod(len(values) for values in factors.values())
        if made > MAX_RUNS:
            raise UserError(f"{where}: with its factors there are over {MAX_RUNS} runs")
        known = _keys_of(experiment)
        shared = {k: v for k, v in defaults.items() if k in known and k not in factors}
        for values in itertools.product(*factors.values()):
            chosen = dict(zip(factors, values, strict=True))
            full_name = name
            if chosen:
                full_name = "-".join([name, *itertools.starmap(_suffix, chosen.items())])
            yield _run(full_name, experiment, {**shared, **own, **chosen}, base, shown)


def _factors(
    value: dict[str, Any], own: Mapping[str, Any], experiment: Experiment, where: str
) -> dict[str, list[Any]]:
    """`factors`: a setting and the values that it takes in turn, each a run of its own."""
    where = f"{where}: factors"
    fields = experiment.Settings.model_fields
    for key, values in value.items():
        if key in COMMON_KEYS:
            raise UserError(f"{where}: {key} is no setting of one value; write a [[run]] for each")
        if key not in fields:
            raise UserError(
                f"{where}: {unknown(f'setting of {experiment.name}', key, keys_of(experiment))}"
            )
        if get_origin(fields[key].annotation) is tuple:
            raise UserError(f"{where}: {key} is a list by itself; write {key} = [...] in the run")
        if key in own:
            raise UserError(f"{where}: {key} is set in the run too; leave out one")
        if not isinstance(values, list) or not values:
            raise UserError(f"{where}: {key} must be a list of values, not {values!r}")
    return value


def _suffix(key: str, value: Any) -> str:
    """What a value of a factor adds to the name of a run."""
    text = value if isinstance(value, str) else f"{key}-{value}"
    return re.sub(r"[^A-Za-z0-9._]+", "-", text)


def _run(
    name: Any, experiment: Experiment, settings: dict[str, Any], base: Path, shown: str
) -> PlannedRun:
    where = f"{shown}: run {name!r}"
    _folder_name(name, where)
    with at(where):
        common = {key: settings.pop(key) for key in ("quick", "servers") if key in settings}
        definitions = converted("definitions", settings.pop("definitions", ()), tuple[str, ...])
        if "servers" in common:
            texts = converted("servers", common["servers"], tuple[str, ...])
            common["servers"] = [_from_base(text, base) for text in texts]
        python = settings.get("python")
        if isinstance(python, str) and os.sep in python:
            settings["python"] = str(base / python)
        config = configure(
            experiment, settings, **common, definitions=[base / d for d in definitions],
            also_known=RUN_KEYS,
        )  # fmt: skip
        check(experiment, config)
        plan = plan_of(experiment, config)
    estimate_s = _START_S + _SERVER_START_S * len(config.servers)
    estimate_s += lasts_s(experiment, config, plan)
    return PlannedRun(name, experiment, config, len(plan), estimate_s)


def _from_base(server: str, base: Path) -> str:
    """What is in a file, "[LABEL=]mine.py:Class OPTIONS", with its path from `base`."""
    match = _SERVER_FILE.fullmatch(server)
    if match is None:
        return server
    label, file, rest = match.groups()
    return f"{label}{shlex.quote(str(base / Path(file).expanduser()))}{rest}"
