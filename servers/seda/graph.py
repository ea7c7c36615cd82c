"""The graph of an application as text that other tools draw: DOT, Mermaid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def dot(title: str, stages: Sequence[dict[str, Any]]) -> str:
    """Graphviz.  `stages` have at least `name`, `to`, `threads`, `queue_capacity`, `blocking`."""
    lines = [
        f'digraph "{title}" {{',
        "  rankdir=LR;",
        '  node [shape=box, style="rounded,filled", fillcolor="#eef4fb", fontname="sans-serif"];',
        '  edge [color="#555555"];',
    ]
    for stage in stages:
        more = ', fillcolor="#fdf0d5"' if stage.get("blocking") else ""
        lines.append(f'  "{stage["name"]}" [label="{stage["name"]}\\n{_caption(stage)}"{more}];')
    lines += [f'  "{stage["name"]}" -> "{target}";' for stage in stages for target in stage["to"]]
    return "\n".join([*lines, "}", ""])


def mermaid(title: str, stages: Sequence[dict[str, Any]]) -> str:
    """Mermaid, which GitHub and GitLab render."""
    lines = ["---", f"title: {title}", "---", "flowchart LR"]
    lines += [
        f'  {stage["name"]}["{stage["name"]}<br/><small>{_caption(stage)}</small>"]'
        for stage in stages
    ]
    lines += [f"  {stage['name']} --> {target}" for stage in stages for target in stage["to"]]
    blocking = [stage["name"] for stage in stages if stage.get("blocking")]
    if blocking:
        lines += ["  classDef blocking fill:#fdf0d5", f"  class {','.join(blocking)} blocking"]
    return "\n".join([*lines, ""])


def _caption(stage: dict[str, Any]) -> str:
    threads = stage["threads"]
    queue = stage["queue_capacity"]
    waits = "kernel's queue" if queue is None else f"queue {queue}"
    return f"{waits}, {threads} thread{'s' if threads != 1 else ''}" + (
        ", blocks" if stage.get("blocking") else ""
    )
