"""The calibration of this machine's load generator, kept in a file: written, read, asked.

What is in it is measured by `calibrate.py`.  A run puts it into its manifest
(`load_calibration`) and warns of what goes beyond it (`warnings_for`).  A file
that cannot be read stops no run: it is one of the warnings.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from sedabench.errors import UserError
from sedabench.machine import facts as machine
from sedabench.results.folder import write_atomically

SCHEMA = 1

LARGEST_BYTES = 1_000_000
"""A calibration is about 10 KB."""
DAMAGED = "damaged"
"""The only key of what stands in a manifest for a calibration that could not be read."""

Facts = dict[str, Any]


def default_path() -> Path:
    """$XDG_STATE_HOME/sedabench/calibration.json, by default under ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return home / "sedabench" / "calibration.json"


def ensure_writable(path: Path) -> None:
    """Find out, by writing, before two minutes of measuring; raises UserError."""
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is no regular file; name another file with --out")
        folder = next(place for place in path.absolute().parents if place.exists())
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(20_000))
    except OSError as error:
        raise _unwritable(path, error) from None


def keep(calibration: Mapping[str, Any], path: Path) -> None:
    """Write the file, its folder too; raises UserError when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(calibration, indent=1) + "\n").encode())
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be written ({error.strerror}); name another file with --out")


def read_calibration(path: Path) -> Facts | None:
    """What is kept in `path`; None when there is no such file.

    Raises:
        UserError: it is no regular file, damaged, or of another version.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe would wait for its writer
    except FileNotFoundError:
        return None
    except OSError:
        raise _unreadable(path) from None
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise _unreadable(path)
    with os.fdopen(file, "rb") as opened:
        try:
            data = opened.read(LARGEST_BYTES + 1)
            found = json.loads(data) if len(data) <= LARGEST_BYTES else None
            json.dumps(found, allow_nan=False)  # a manifest takes no infinity
        except (OSError, ValueError, RecursionError):
            found = None
    if not _can_be_asked(found):
        raise _unreadable(path)
    return dict(found)


def _unreadable(path: Path) -> UserError:
    return UserError(
        f"{path} is no calibration that can be read; delete it, or run: sedabench calibrate"
    )


def _can_be_asked(found: Any) -> TypeGuard[Facts]:
    """Has it what `warnings_for` asks for?"""
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        return False
    driven = found.get("open_loop_rps", "missing")
    facts = found.get("machine")
    return (
        isinstance(facts, dict)
        and {"cpu", "kernel", "cores_usable"} <= facts.keys()
        and isinstance(found.get("warnings"), list)
        and (driven is None or isinstance(driven, int | float))
    )


def load_calibration() -> Facts | None:
    """What was measured here last, for manifests; None when nothing was.

    Of a file that cannot be read it is `{DAMAGED: why}`, for `warnings_for` to tell.
    """
    try:
        return read_calibration(default_path())
    except UserError as error:
        return {DAMAGED: str(error)}


def warnings_for(rate_rps: float, calibration: Mapping[str, Any] | None) -> list[str]:
    """What should be said of an experiment that asks for so many requests/s of an open loop."""
    if calibration is None:
        return ["the load generator was not calibrated on this machine: run sedabench calibrate"]
    if DAMAGED in calibration:
        return [f"how far the load generator keeps up is not known: {calibration[DAMAGED]}"]
    warnings = []
    then, now = calibration["machine"], machine.facts()
    if changed := [name for name in ("cpu", "kernel", "cores_usable") if then[name] != now[name]]:
        warnings.append(
            f"calibrated with another {' and '.join(changed).replace('_', ' ')}: "
            "run sedabench calibrate again"
        )
    warnings += [f"at the calibration: {warning}" for warning in calibration["warnings"]]
    driven = calibration["open_loop_rps"]
    if driven is None:
        warnings.append("the calibration found no rate that the load generator keeps up with here")
    elif rate_rps > driven:
        warnings.append(
            f"{rate_rps:,.0f} requests/s are asked for, calibrated were {driven:,.0f}: "
            "the load generator may be the limit"
        )
    return warnings
