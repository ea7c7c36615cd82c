"""The run folder: written trial by trial, read by everyone else.

    results/figure1/2026-01-31T12-00-00Z/
      manifest.json      what was asked, of which code, on which machine
      trials.csv         one row a finished trial
      trials/007.json    what server and load generator said in trial 7, unabridged
      figure.png, .svg   drawn from the two files above, and again by `sedabench plot`

Three promises:

- Whatever kills the driver, every finished trial is kept.  A file is never
  written in place: its next version is written beside it, synced, and renamed
  over it.  The row comes last, so a row means that its trial is complete.
- A finished row is never changed.  A resumed run copies the text of the rows
  that it finds.
- The folder explains itself.  The manifest holds the plan (which trial is
  which), and type, unit and meaning of every column, so that a reader needs
  neither this version of the program nor the experiment's code.

A text of `trials.csv` that a spreadsheet would take for a formula, as a label "=1+2"
or options "--writers 16", has an apostrophe before it in the file, which is taken
away when it is read (`_to_cell`, `_from_cell`).

Two drivers cannot write one folder: the writer holds a lock on it.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sedabench.errors import DamagedRunError, SettingError, UserError, one_line

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 1
"""Version of the folder's format; raised when an old reader would misread it."""

MANIFEST = "manifest.json"
TRIALS = "trials.csv"

Kind = Literal["int", "float", "bool", "str"]
Value = int | float | bool | str | None


@dataclass(frozen=True)
class Column:
    """One column of `trials.csv`."""

    name: str
    kind: Kind
    unit: str
    meaning: str


@dataclass(frozen=True)
class Run:
    """A run folder that was read.  `trials` has typed columns, one row a trial."""

    path: Path
    manifest: dict[str, Any]
    trials: pd.DataFrame

    def raw(self, trial: int) -> dict[str, Any] | None:
        """What server and load generator said in a trial, unabridged: trials/NNN.json.

        None when the folder has no such file, as one that was shared without its records.

        Raises:
            DamagedRunError: the file cannot be read or is no JSON object.
        """
        path = self.path / "trials" / f"{trial:03d}.json"
        try:
            found = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DamagedRunError(f"{path} cannot be read: {one_line(str(error))}") from None
        if not isinstance(found, dict):
            raise DamagedRunError(f"{path} holds no JSON object; restore it")
        return found


def utc_now() -> str:
    """For a manifest: 2026-01-31T12:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_folder_path(root: Path, experiment: str) -> Path:
    """A folder name that nobody has yet: `root/experiment/<UTC time>`."""
    base = root / experiment / datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    path, number = base, 2
    while path.exists():
        path, number = base.with_name(f"{base.name}-{number}"), number + 1
    return path


def check_new_folder(path: Path) -> None:
    """Find out, before anything is measured, whether a run can be written to `path`.

    Raises:
        UserError: it holds something already, is no folder, or cannot be written.
    """
    try:
        if path.is_dir() and any(path.iterdir()):
            raise UserError(
                f"{path} is not empty; name a new folder, or continue its run with "
                f"--resume {shlex.quote(str(path))}"
            )
        there = next(p for p in (path, *path.absolute().parents) if p.exists())
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    if not there.is_dir():
        raise SettingError("out", f"{path}: {there} is not a folder; name another folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(path, f"no permission in {there}")


def _unwritable(path: Path, why: str | None) -> UserError:
    return SettingError("out", f"{path} cannot be written ({why}); name another folder")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a crash leaves the old or the new, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)  # the rename itself
    finally:
        os.close(folder)


# -- writing ------------------------------------------------------------------------------


class RunWriter:
    """The only writer of a run folder.  Use it as a context manager."""

    def __init__(
        self, path: Path, manifest: dict[str, Any], rows: Sequence[Mapping[str, str]]
    ) -> None:
        self.path = path
        self.manifest = manifest
        self.columns = _columns(path, manifest)
        self._rows = [dict(row) for row in rows]
        self._lock = _lock(path)

    @classmethod
    def create(cls, path: Path, manifest: dict[str, Any], columns: Sequence[Column]) -> RunWriter:
        """Start a run in a new or empty folder.

        Raises:
            UserError: the folder holds something already, or cannot be written.
        """
        check_new_folder(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            (path / "trials").mkdir()
        except OSError as error:
            raise _unwritable(path, error.strerror) from None
        described = {
            c.name: {"type": c.kind, "unit": c.unit, "meaning": c.meaning} for c in columns
        }
        writer = cls(path, {"schema": SCHEMA, **manifest, "columns": described}, ())
        writer._write_manifest()
        writer._write_rows()
        return writer

    @classmethod
    def reopen(cls, path: Path) -> RunWriter:
        """Continue a run.

        Raises:
            DamagedRunError: manifest and trials cannot be read or do not fit together.
            UserError: another process is writing it.
        """
        manifest, rows = read_folder(path)
        writer = cls(path, manifest, rows)
        manifest, writer._rows = read_folder(path)  # again, now that nobody else writes
        writer.manifest = manifest
        (path / "trials").mkdir(exist_ok=True)
        return writer

    @property
    def finished(self) -> frozenset[int]:
        """The numbers of the trials that have a row."""
        return frozenset(int(row["trial"]) for row in self._rows)

    def add(self, row: Mapping[str, Value], raw: Mapping[str, Any]) -> None:
        """Keep a finished trial: its raw record first, then its row."""
        name = f"{row['trial']:03d}.json"
        write_atomically(self.path / "trials" / name, _json(raw))
        try:
            self._rows.append({column: _text(row[column]) for column in self.columns})
            self._write_rows()
        except KeyboardInterrupt:  # the trial is measured: file and memory must agree about it
            self._write_rows()
            raise

    def update(self, **fields: Any) -> None:
        """Set top-level fields of the manifest."""
        self.manifest = {**self.manifest, **fields}
        self._write_manifest()

    def close(self) -> None:
        os.close(self._lock)

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write_manifest(self) -> None:
        write_atomically(self.path / MANIFEST, _json(self.manifest))

    def _write_rows(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(self.columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {
                name: _to_cell(cell) if self.columns[name] == "str" else cell
                for name, cell in row.items()
            }
            for row in self._rows
        )
        write_atomically(self.path / TRIALS, text.getvalue().encode())


def _lock(path: Path) -> int:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(folder)
        raise UserError(f"{path} is being written by another process; wait for its end") from None
    return folder


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.9g}"
    return one_line(value) if isinstance(value, str) else str(value)


_FORMULA = tuple("=+-@")


def _to_cell(text: str) -> str:
    """Text for `trials.csv` that no spreadsheet takes for a formula; undone by `_from_cell`.

    An apostrophe rather than a refusal: options of servers begin with "-", and
    what a server said last may begin with anything.
    """
    return f"'{text}" if text.startswith(_FORMULA) or _is_marked(text) else text


def _from_cell(cell: str) -> str:
    return cell[1:] if _is_marked(cell) else cell


def _is_marked(cell: str) -> bool:
    """An apostrophe before what begins a formula; before another apostrophe too, for one there."""
    return cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA)


# -- reading ------------------------------------------------------------------------------


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a run folder, finished or not.

    Raises:
        DamagedRunError: a file is missing, cannot be read, or contradicts another.
    """
    import pandas as pd

    folder = Path(path)
    manifest, rows = read_folder(folder)
    kinds = _columns(folder, manifest)
    dtypes: dict[Kind, Any] = {
        "int": "Int64",
        "float": "float64",
        "bool": "boolean",
        "str": "string",
    }
    trials = pd.DataFrame(
        {
            name: pd.array([_value(row[name], kind) for row in rows], dtype=dtypes[kind])
            for name, kind in kinds.items()
        }
    )
    if len(trials):
        trials["valid"] = trials["valid"].astype(bool)
    return Run(folder, manifest, trials)


def read_folder(path: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """Manifest and rows (as text), proved to fit together: see `load_run`."""
    manifest = _read_manifest(path)
    kinds = _columns(path, manifest)
    text = _read_text(path / TRIALS)
    try:
        lines = list(csv.reader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise _damaged(path, f"{TRIALS} is no CSV file ({error})") from None
    if not lines or lines[0] != list(kinds):
        raise _damaged(path, f"the columns of {TRIALS} are not those of {MANIFEST}")
    if not text.endswith("\n"):
        raise _damaged(path, f"{TRIALS} ends in the middle of a line")
    plan = manifest["plan"]
    rows, seen = [], set()
    for number, fields in enumerate(lines[1:], start=2):
        where = f"{TRIALS} line {number}"
        if len(fields) != len(kinds):
            raise _damaged(path, f"{where} has {len(fields)} fields instead of {len(kinds)}")
        row = {
            name: _from_cell(field) if kind == "str" else field
            for (name, kind), field in zip(kinds.items(), fields, strict=True)
        }
        for name, kind in kinds.items():
            try:
                missing = _value(row[name], kind) is None
            except ValueError:
                raise _damaged(
                    path, f"{where}: {name} is {row[name]!r}, not {kind} (64 bits, finite)"
                ) from None
            if missing and name in ("trial", "valid"):
                raise _damaged(path, f"{where}: {name} is missing")
        trial = int(row["trial"])
        if not 0 <= trial < len(plan) or trial in seen:
            raise _damaged(path, f"{where}: trial {trial} is not in the plan, or twice in the file")
        if any(row.get(key) != str(value) for key, value in plan[trial].items()):
            raise _damaged(path, f"{where}: trial {trial} is not what the plan says it is")
        seen.add(trial)
        rows.append(row)
    return manifest, rows


_DESCRIPTIVE = {
    "machine": dict, "versions": dict, "interpreters": dict, "git": dict, "warnings": list,
    "resumed": list,
}  # fmt: skip
"""What a manifest may lack, but not have in another type."""


def runs_inside(path: Path) -> list[Path]:
    """The run folders in the folder of a suite, in the order of their names."""
    return sorted(manifest.parent for manifest in path.glob(f"*/{MANIFEST}"))


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise DamagedRunError(f"{path} is not a run folder; name a folder that `run` made")
    if not (path / MANIFEST).exists():
        if inside := runs_inside(path):
            names = ", ".join(str(run) for run in inside[:4]) + (", ..." if len(inside) > 4 else "")
            raise DamagedRunError(f"{path} holds several runs; name one of them: {names}")
        if not (path / TRIALS).exists():
            raise DamagedRunError(
                f"{path} is not a run folder: it has neither {MANIFEST} nor {TRIALS}; "
                "name a folder that `run` made"
            )
    try:
        manifest = json.loads(_read_text(path / MANIFEST))
    except ValueError as error:
        raise _damaged(path, f"{MANIFEST} is no JSON ({error})") from None
    needed = {"schema": int, "experiment": str, "parameters": dict, "plan": list, "columns": dict}
    for key, kind in needed.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise _damaged(path, f"{MANIFEST} has no usable {key!r}")
    if manifest["schema"] > SCHEMA:
        raise DamagedRunError(f"{path} was made by a newer version of sedabench; use that version")
    for key, kind in _DESCRIPTIVE.items():
        if manifest.get(key) is not None and not isinstance(manifest[key], kind):
            raise _damaged(path, f"{MANIFEST} has no usable {key!r}")
    if not all(isinstance(cell, dict) for cell in manifest["plan"]):
        raise _damaged(path, f"{MANIFEST} has no usable 'plan'")
    result: dict[str, Any] = manifest
    return result


def _columns(path: Path, manifest: Mapping[str, Any]) -> dict[str, Kind]:
    try:
        kinds = {name: column["type"] for name, column in manifest["columns"].items()}
    except (TypeError, KeyError):
        kinds = {}
    known = ("int", "float", "bool", "str")
    if (kinds.get("trial"), kinds.get("valid")) != ("int", "bool") or not all(
        isinstance(kind, str) and kind in known for kind in kinds.values()
    ):
        raise _damaged(path, f"{MANIFEST} has no usable 'columns'")
    return kinds


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise _damaged(path.parent, f"{path.name} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise _damaged(path.parent, f"{path.name} is no UTF-8 text") from None


def _value(text: str, kind: Kind) -> Value:
    if kind == "str":
        return text
    if text == "":
        return None
    if kind == "bool":
        if text not in ("True", "False"):
            raise ValueError(text)
        return text == "True"
    value = int(text) if kind == "int" else float(text)
    if not (-(2**63) <= value < 2**63 if kind == "int" else math.isfinite(value)):
        raise ValueError(text)
    return value


def _damaged(path: Path, what: str) -> DamagedRunError:
    return DamagedRunError(f"{path} is damaged: {what}; restore it, or start a new run")
