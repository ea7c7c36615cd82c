"""What to say about a name that nobody knows: the nearest one that somebody does."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from loadgen.errors import LoadError


def hint(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?` if something is near, otherwise all that there is."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names) or 'none'}"


def unknown(kind: str, name: str, known: Iterable[str]) -> LoadError:
    """The error for a `kind` of thing that is not called `name`."""
    return LoadError(f"unknown {kind} {name!r}; {hint(name, known)}")
