"""A look inside a server: its graph of stages, and a running one live.

The paper's section 3.2 asks for it: an application made of stages "can be
visualised", and a profile of its queues shows where the bottleneck is.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from loadgen.output import lost
from sedabench.errors import UserError
from sedabench.machine.process import finish

if TYPE_CHECKING:
    from rich.console import Console, Group

FORMATS = (".dot", ".mmd", ".svg", ".png")


def describe(arguments: Sequence[str]) -> dict[str, Any]:
    """The stages of a server that is not started: `python -m servers ... --describe`.

    Raises:
        UserError: the server's own complaint; or the architecture has no stages.
    """
    done = finish(
        [sys.executable, "-m", "servers", *arguments, "--describe"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UserError((done.stderr.strip() or "the server says nothing").removeprefix("error: "))
    found: dict[str, Any] = json.loads(done.stdout)
    if not found["stages"]:
        raise UserError(f"{found['architecture']} has no stages; try: sedabench graph seda")
    return found


def draw_graph(description: dict[str, Any], out: Path | None) -> str:
    """The graph as text; written to `out` in the format that its suffix names.

    Raises:
        UserError: an unknown suffix, no Graphviz for a picture, a file that cannot be written.
    """
    from servers.seda.graph import dot, mermaid

    title = f"{description['architecture']}: {description['service']}"
    if out is None:
        return mermaid(title, description["stages"])
    if out.suffix not in FORMATS:
        raise UserError(f"{out.name} ends in none of {', '.join(FORMATS)}; give --out one of them")
    text = (mermaid if out.suffix == ".mmd" else dot)(title, description["stages"])
    try:
        if out.suffix in (".dot", ".mmd"):
            out.write_text(text, encoding="utf-8")
        else:
            _graphviz(text, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror}") from None
    return str(out)


def _graphviz(text: str, out: Path) -> None:
    if shutil.which("dot") is None:
        raise UserError(
            f"a {out.suffix} needs Graphviz, which is not installed (package graphviz); "
            "without it, --out may end in .dot or .mmd"
        )
    with out.open("wb") as file:
        finish(["dot", f"-T{out.suffix[1:]}"], input=text.encode(), stdout=file, check=True)


# -- top ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rates:
    """What one stage did between two snapshots."""

    name: str
    queue: str
    threads: int
    batch: float
    """Events a batch had, on average; 0 when there was none."""
    events_per_s: float
    wait_us: float | None
    """How long an event was in the queue, on average; None where nobody knows."""
    service_us: float | None
    """Time in the handler, per event."""
    utilisation: float
    """Threads' worth of time spent in the handler."""
    lost: int


def rates(before: dict[str, Any], after: dict[str, Any]) -> list[Rates]:
    """Each stage between two answers of `/stats`; averages over the events of that time."""
    elapsed_s = max(1e-9, (after["time_ns"] - before["time_ns"]) / 1e9)
    earlier = {stage["name"]: stage for stage in before["stages"]}
    found = []
    for stage in after["stages"]:
        past = earlier.get(stage["name"], stage)
        events = stage["events_out"] - past["events_out"]
        batches = stage["batches"] - past["batches"]
        busy_s = stage["busy_s"] - past["busy_s"]
        wait_us = None
        if stage["wait_s"] is not None and events:
            wait_us = max(0.0, (stage["wait_s"] - past["wait_s"]) / events * 1e6)
        capacity = stage["queue_capacity"]
        found.append(
            Rates(
                name=stage["name"],
                queue="kernel" if capacity is None else f"{stage['queue_length']}/{capacity}",
                threads=stage["threads"],
                batch=events / batches if batches else 0.0,
                events_per_s=events / elapsed_s,
                wait_us=wait_us,
                service_us=busy_s / events * 1e6 if events else None,
                utilisation=busy_s / elapsed_s,
                lost=stage["dropped"],
            )
        )
    return found


def fetch(url: str) -> dict[str, Any]:
    """`/stats` of a running server.

    Raises:
        UserError: nobody answers there, or something else does.
    """
    base = url.rstrip("/")
    if "://" not in base:
        base = f"http://{base}"
    if not base.endswith("/stats"):
        base += "/stats"
    try:
        with urllib.request.urlopen(base, timeout=10) as reply:
            found = json.load(reply)
    except (urllib.error.URLError, OSError, ValueError) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
            if error.code == HTTPStatus.MISDIRECTED_REQUEST:
                raise UserError(misdirected(urlsplit(base).hostname or base)) from None
        reason = getattr(error, "reason", error)
        raise UserError(
            f"no statistics at {base} ({reason}); give the address of the server's --admin-port"
        ) from None
    if not isinstance(found, dict) or "stages" not in found:
        raise UserError(f"{base} is not the admin port of a server of this project")
    return found


def misdirected(host: str) -> str:
    """What to do about an admin port that answers only to other names (DNS rebinding)."""
    return (
        f"the admin port does not answer to the name {host}; start the server with "
        f"--admin-name {host}, or give the address that it listens on"
    )


def top(url: str, console: Console, interval_s: float, times: int | None) -> None:
    """Show a running server until Ctrl-C, or `times` times.

    On a terminal one picture replaces the other, and the last stays; elsewhere they
    follow each other, until nobody reads them.
    """
    from rich.live import Live

    before = fetch(url)
    shown, picture = 0, None
    terminal = console.is_terminal
    on_screen = Live(console=console, auto_refresh=False, screen=True) if terminal else None
    with on_screen or nullcontext():
        while (times is None or shown < times) and not (console.quiet or lost()):
            time.sleep(interval_s)
            after = fetch(url)
            picture = screen(before, after)
            if on_screen is not None:
                on_screen.update(picture, refresh=True)
            else:
                console.print(picture)
            before = after
            shown += 1
    if terminal and picture is not None:
        console.print(picture)


def screen(before: dict[str, Any], after: dict[str, Any]) -> Group:
    """One picture of `top`."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table

    elapsed_s = max(1e-9, (after["time_ns"] - before["time_ns"]) / 1e9)

    def per_s(key: str) -> str:
        return f"{(after[key] - before[key]) / elapsed_s:,.0f}/s"

    errors = {kind: n for kind, n in after["errors"].items() if n}
    runner = f", {after['runner']}" if "runner" in after else ""
    title = (
        f"{after['architecture']}{runner}: {after['service']}   pid {after['pid']}   "
        f"{after['connections']['now']:,} connections   {after['threads']} threads   "
        f"requests {per_s('requests')}   replies {per_s('replies')}   "
        f"rejected {per_s('rejected')}   errors {errors or 'none'}"
    )
    stages = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("stage", "queue", "threads", "batch", "events/s", "wait us", "service us", "busy",
                 "lost"):  # fmt: skip
        stages.add_column(name, justify="left" if name == "stage" else "right")
    for row in rates(before, after):
        stages.add_row(
            row.name, row.queue, str(row.threads), f"{row.batch:.1f}", f"{row.events_per_s:,.0f}",
            _number(row.wait_us), _number(row.service_us), f"{row.utilisation:.2f}", str(row.lost),
        )  # fmt: skip
    parts: list[Any] = [title, stages if after["stages"] else "(no stages)"]
    if admission := after.get("admission"):
        limit = admission["limit_per_s"]
        parts.append(
            f"admission: {'no limit' if limit is None else f'{limit:,.0f} requests/s'}, "
            f"p90 {_number(admission['p90_ms'])} ms, target {admission['target_ms']:g} ms"
        )
    if decisions := after.get("decisions"):
        parts.append("last decisions:")
        for decision in decisions[-6:]:
            ago_s = (after["time_ns"] - decision["time_ns"]) / 1e9
            parts.append(
                f"  {ago_s:6.1f} s ago  {decision['controller']} of {decision['stage']}: "
                f"{decision['quantity']} {decision['before']:,.0f} -> {decision['after']:,.0f}  "
                f"({decision['reason']})"
            )
    return Group(*parts)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"
