"""The calibration of this machine's load generator, kept in a file: written, read, asked.

What is in it is measured by `calibrate.py`.  A run puts it into its manifest
(`load_calibration`) and warns of what goes beyond it (`warnings_for`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sedabench import machine
from sedabench.errors import UserError
from sedabench.results import write_atomically

SCHEMA = 1

Facts = dict[str, Any]


def default_path() -> Path:
    """$XDG_STATE_HOME/sedabench/calibration.json, by default under ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME", "")
    home = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    return home / "sedabench" / "calibration.json"


def ensure_writable(path: Path) -> None:
    """Find out before two minutes of measuring; raises UserError."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if path.is_dir() or not (there.is_dir() or there == path) or not os.access(there, os.W_OK):
        raise UserError(f"{path} cannot be written; name another file with --out")


def keep(calibration: Mapping[str, Any], path: Path) -> None:
    """Write the file, its folder too; raises UserError when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, (json.dumps(calibration, indent=1) + "\n").encode())
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}); name another file with --out"
        ) from None


def load_calibration(path: Path | None = None) -> Facts | None:
    """What was measured here last, for manifests; None when nothing was.

    Raises:
        UserError: the file is damaged or of another version.
    """
    path = path or default_path()
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise UserError(
            f"{path} is no calibration that can be read; delete it, or run: sedabench calibrate"
        )
    return found


def warnings_for(rate_rps: float, calibration: Mapping[str, Any] | None) -> list[str]:
    """What should be said of an experiment that asks for so many requests/s of an open loop."""
    if calibration is None:
        return ["the load generator was not calibrated on this machine: run sedabench calibrate"]
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
