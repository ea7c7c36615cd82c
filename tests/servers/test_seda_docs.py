"""The code on docs/seda.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "seda.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("runner", ["pools", "shared", "direct"])
def test_the_application_runs_under_every_runner(runner: str) -> None:
    code = BLOCKS[0].replace("Application(stages)", f"Application(stages, runner={runner!r})")
    assert len(code.splitlines()) < 40
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["found"]) + len(names["turned_away"]) == 1000


@pytest.mark.parametrize("runner", ["pools", "shared"])
def test_the_delayed_stage_gathers(runner: str) -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[2].replace("(stages)", f"(stages, runner={runner!r})"), names)
    assert sum(names["inserts"]) == 120


def test_the_policy_keeps_the_paying() -> None:
    names: dict[str, Any] = {}
    exec(BLOCKS[1], names)
    from servers.seda import EventQueue

    queue: EventQueue[dict[str, Any]] = EventQueue(2, names["KeepThePaying"]())
    events = [{"n": n, "pays": n % 2 == 1} for n in range(6)]
    lost = queue.put(events)
    assert [event["n"] for event in queue.take(10, 0) or ()] == [1, 3]
    assert sorted(event["n"] for event in lost) == [0, 2, 4, 5]
    assert queue.losses["keep_the_paying"] == 4
