"""What a person can cause and put right; everything else is a bug and may show a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from loadgen.interruption import StoppedBySignal

__all__ = ["DamagedRunError", "StoppedBySignal", "UserError", "one_line", "unknown"]


class UserError(Exception):
    """One line: what is wrong; what to do.  The command line exits with status 2."""


class DamagedRunError(UserError):
    """A run folder whose files are missing, unreadable or contradict each other."""


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that nobody has, with the nearest one that somebody has."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"
    return UserError(f"unknown {kind} {name!r}; {hint}")


def one_line(text: str) -> str:
    """`text` with every run of white space made one space."""
    return " ".join(text.split())
