"""Why trials are invalid, by kind.

A trial has reasons, joined by " | "; what stands after a reason's colon, and
its numbers, are of that trial alone: "requests were sent late: 99th percentile
1.88 ms" and the same with 2.10 ms are one kind.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable


def split(text: object) -> list[str]:
    """All reasons of one trial."""
    return [reason for reason in str(text).split(" | ") if reason]


def kind(reason: str) -> str:
    """What a reason has in common with its likes: no detail, and N for its numbers."""
    return re.sub(r"[+-]?\b\d[\d.,]*", "N", _head(reason))


def first_kinds(texts: Iterable[object]) -> list[tuple[str, int]]:
    """The kinds of the first reason of each trial, and how many, the most frequent first.

    A kind whose numbers are the same in all its trials has them, not N.
    """
    firsts = [_head(split(text)[0]) for text in texts if split(text)]
    counts = Counter(map(kind, firsts))
    told: dict[str, set[str]] = {}
    for first in firsts:
        told.setdefault(kind(first), set()).add(first)
    return [
        (min(told[one]) if len(told[one]) == 1 else one, count)
        for one, count in counts.most_common()
    ]


def _head(reason: str) -> str:
    return reason.split(":")[0].rstrip(".")
