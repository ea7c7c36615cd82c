"""A suite: experiments and their settings in one TOML file, read and checked; docs/suites.md.

Every complaint about such a file is made here, in one line that names the file
and the run, before anything starts.  Keys and values of a run are those of
`sedabench.run`, and go through the same checks (`experiments.settings`).
Paths in a file are relative to the file.  `suite_run` carries a suite out.
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
from typing import Any

from sedabench.errors import UserError, unknown
from sedabench.machine.facts import nearby

TOP_KEYS = ("name", "title", "defaults", "run")
RUN_KEYS = ("name", "experiment", "factors")
"""Keys of a run that are no settings of its experiment."""

SUITE, RECORD = "suite.toml", "suite.json"
"""In a suite's folder: the file as it was, and how far it has come."""

MOST_RUNS = 1000

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SERVER_FILE = re.compile(
    r"(\s*(?:[^\s=/-][^\s=/]*\s*=)?\s*)([^\s=]*(?:\.py|/[^\s:]*))(:.*)", re.DOTALL
)
_START_S, _SERVER_START_S = 1.0, 0.8
"""What a run takes beside its trials, about: in all, and to try a server out."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a suite; `name` is its folder."""

    name: str
    experiment: str
    config: Any
    trials: int
    estimate_s: float

    def trial_s(self, cell: Mapping[str, Any]) -> float:
        """About how long a trial takes, in seconds."""
        return float(self.config.estimate_s(cell))


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
    text, document = _document(path, shown)
    _only(document, TOP_KEYS, shown)
    tables = document.get("run")
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{shown} has no list of runs; it needs tables [[run]], twice bracketed")
    if not tables:
        raise UserError(f"{shown} has no run; it needs at least one table [[run]]")
    base = (base or path.parent).absolute()
    defaults = document.get("defaults", {})
    _check_defaults(defaults, tables, shown)
    found: dict[str, PlannedRun] = {}
    for run in _runs(tables, defaults, base, shown):
        if run.name in found:
            raise UserError(
                f"{shown}: two runs are called {run.name!r}; give one a name of its own: "
                f'name = "..."'
            )
        found[run.name] = run
    name = _name(document.get("name", path.stem), shown)
    return Suite(name, _title(document, shown), text, base, tuple(found.values()))


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


def _only(table: Any, keys: Sequence[str], where: str) -> None:
    for key in table:
        if key not in keys:
            raise UserError(f"{where}: {unknown('key', key, keys)}")


def _name(value: Any, where: str) -> str:
    from sedabench.experiments import EXPERIMENTS

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


def _title(document: Mapping[str, Any], where: str) -> str:
    title = document.get("title", "")
    if not isinstance(title, str):
        raise UserError(f"{where}: title must be a text, not {title!r}")
    return title


# -- runs ---------------------------------------------------------------------------------


def _check_defaults(defaults: Any, tables: Sequence[Mapping[str, Any]], shown: str) -> None:
    """Every default must be for somebody: one that does nothing is a mistake."""
    where = f"{shown}: defaults"
    if not isinstance(defaults, dict):
        raise UserError(f"{where} is no table; write [defaults] and keys under it")
    for key in defaults:
        if key in RUN_KEYS:
            raise UserError(f"{where}: {key} belongs to a run; write it under its [[run]]")
    used = {_experiment(table, n, shown) for n, table in enumerate(tables, start=1)}
    known = set().union(*map(_keys_of, used))
    for key in defaults:
        if key == "definitions" and key not in known:
            raise UserError(f"{where}: no run here takes definitions; leave them out")
        if key not in known:
            raise UserError(f"{where}: {unknown('key', key, known)}")


def _keys_of(experiment: str) -> set[str]:
    """What may be set for an experiment."""
    from sedabench.experiments.settings import COMMON_KEYS, kind_of, types_of

    keys = {*types_of(experiment), *COMMON_KEYS}
    return keys if kind_of(experiment).definitions else keys - {"definitions"}


def _experiment(table: Mapping[str, Any], number: int, shown: str) -> str:
    from sedabench.experiments.settings import kind_of

    where = f"{shown}: run {number}"
    name = table.get("experiment")
    if name is None:
        for key in table:
            if difflib.get_close_matches(key, ["experiment"], cutoff=0.75):
                raise UserError(f"{where}: {unknown('key', key, ['experiment'])}")
        raise UserError(f'{where} names no experiment; write experiment = "figure1"')
    if not isinstance(name, str):
        raise UserError(f"{where}: experiment must be a text, not {name!r}")
    try:
        kind_of(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return name


def _runs(
    tables: Sequence[dict[str, Any]], defaults: Mapping[str, Any], base: Path, shown: str
) -> Iterator[PlannedRun]:
    made = 0
    for number, table in enumerate(tables, start=1):
        experiment = _experiment(table, number, shown)
        name = _folder_name(table.get("name", experiment), f"{shown}: run {number}")
        where = f"{shown}: run {name!r}"
        own = {key: value for key, value in table.items() if key not in RUN_KEYS}
        factors = _factors(table.get("factors", {}), own, experiment, where)
        made += math.prod(len(values) for values in factors.values())
        if made > MOST_RUNS:
            raise UserError(f"{where}: with its factors there are over {MOST_RUNS} runs")
        known = _keys_of(experiment)
        shared = {k: v for k, v in defaults.items() if k in known and k not in factors}
        for values in itertools.product(*factors.values()):
            chosen = dict(zip(factors, values, strict=True))
            full_name = "-".join([name, *itertools.starmap(_suffix, chosen.items())])
            yield _run(full_name, experiment, {**shared, **own, **chosen}, base, shown)


def _factors(
    value: Any, own: Mapping[str, Any], experiment: str, where: str
) -> dict[str, list[Any]]:
    """`factors`: a setting and the values that it takes in turn, each a run of its own."""
    from sedabench.experiments.settings import COMMON_KEYS, types_of

    where = f"{where}: factors"
    if not isinstance(value, dict):
        raise UserError(f"{where} is a table of lists; write factors = {{ slo_ms = [50, 100] }}")
    types = types_of(experiment)
    for key, values in value.items():
        if key in COMMON_KEYS:
            raise UserError(f"{where}: {key} is no setting of one value; write a [[run]] for each")
        if key not in types:
            raise UserError(f"{where}: {unknown(f'setting of {experiment}', key, types)}")
        if types[key].startswith("tuple"):
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
    name: str, experiment: str, settings: dict[str, Any], base: Path, shown: str
) -> PlannedRun:
    from sedabench.experiments.settings import configure, converted, in_keys, runnable

    module = runnable(experiment)
    where = f"{shown}: run {name!r}"
    _folder_name(name, where)
    with in_keys(f"{where}: "):
        common = {key: settings.pop(key) for key in ("quick", "servers") if key in settings}
        definitions = converted("definitions", settings.pop("definitions", ()), "tuple[str, ...]")
        if "servers" in common:
            texts = converted("servers", common["servers"], "tuple[str, ...]")
            common["servers"] = [_from_base(text, base) for text in texts]
        python = settings.get("python")
        if isinstance(python, str) and os.sep in python:
            settings["python"] = str(base / python)
        config = configure(
            experiment, settings, **common, definitions=[base / d for d in definitions],
            also_known=RUN_KEYS,
        )  # fmt: skip
        module.check(config)
    plan = module.plan_of(config)
    estimate_s = _START_S + _SERVER_START_S * len(config.servers)
    estimate_s += sum(map(config.estimate_s, plan))
    return PlannedRun(name, experiment, config, len(plan), estimate_s)


def _from_base(server: str, base: Path) -> str:
    """A server that is a file, "[LABEL=]mine.py:Class OPTIONS", with its path from `base`."""
    match = _SERVER_FILE.fullmatch(server)
    if match is None:
        return server
    label, file, rest = match.groups()
    return f"{label}{shlex.quote(str(base / Path(file).expanduser()))}{rest}"
