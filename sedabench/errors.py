"""What a person can cause and put right; everything else is a bug and may show a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from loadgen.interruption import StoppedBySignal

__all__ = [
    "DamagedRunError", "SettingError", "StoppedBySignal", "UserError", "nearest", "one_line",
    "unknown",
]  # fmt: skip


class UserError(Exception):
    """One line: what is wrong; what to do.  The command line exits with status 2."""


class SettingError(UserError):
    """A setting that cannot be: `key` names it, `text` says why and what to do.

    Each front end has its own way to name a setting: "duration_s must be over 0" in
    Python and suites, which is this error's text, "--duration must be over 0" at the
    command line.
    """

    def __init__(self, key: str, text: str) -> None:
        super().__init__(f"{key} {text}")
        self.key = key
        self.text = text


class DamagedRunError(UserError):
    """A run folder whose files are missing, unreadable or contradict each other."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody has, with the nearest one that somebody has."""
    return UserError(f"unknown {kind} {name!r}; {nearest(name, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """What to do about a wrong name: the nearest right one, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"


def one_line(text: str) -> str:
    """`text` with every run of white space made one space."""
    return " ".join(text.split())
