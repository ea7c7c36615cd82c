"""The server under a swarm, as its admin port tells: what it did while a trial lasted.

The master's machine asks `/stats` twice a second, when an admin port is given.
On the same machine it also reads the server's CPU time, memory and context
switches; of a server elsewhere these stay empty.  It must answer before there is
load; one that does not answer later leaves a gap, and no error: the load is what
is measured.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadgen.net.targets import is_this_machine
from sedabench.errors import UserError
from sedabench.live.inside import misdirected
from sedabench.machine.process import cpu_clock
from sedabench.results.folder import Value
from sedabench.trials.columns import COUNTS_AGREE, kinds
from sedabench.trials.http_columns import compare_counts
from sedabench.trials.readings import context_switches, rss_bytes

EVERY_S = 0.5

PATIENCE_S = 2.0
"""Of one question; a server that is asked for too much answers late."""

FIRST_PATIENCE_S = 10.0
"""Of the one before there is load: nothing is lost by waiting."""


class MisdirectedError(ValueError):
    """The admin port answers only to other names."""


NO_SERVER_OF_OURS = (http.client.HTTPException, ValueError, KeyError, TypeError)
"""What reading another's answer raises."""

UNANSWERED = "the admin port answered less than twice: the server's columns are empty"

APART = 0.05
"""Replies of server and workers may differ by this share without a word."""

APART_S = 0.25
"""Or by those of this time: reports of the workers come in halves of a second."""


@dataclass(frozen=True)
class Moment:
    """What was read at one time.  `at_s` is on this machine's monotonic clock."""

    at_s: float
    stats: dict[str, Any]
    cpu_s: float | None = None
    rss_bytes: int | None = None
    switches: tuple[int, int, int] | None = None


class ServerWatch:
    """Asks when it is time to; keeps everything.  `url`: of the admin port, or nothing."""

    def __init__(self, url: str) -> None:
        self.moments: list[Moment] = []
        self._due_s = 0.0
        self._where: tuple[str, int] | None = None
        self._url = url
        if not url:
            return
        parts = urlsplit(url if "://" in url else f"http://{url}")
        try:
            port = parts.port
        except ValueError:
            port = None
        if parts.scheme != "http" or not parts.hostname or port is None:
            raise UserError(f"--admin must be http://HOST:PORT, not {url!r}")
        self._where = (parts.hostname, port)

    @property
    def host(self) -> str:
        return self._where[0] if self._where else ""

    def check(self) -> None:
        """Ask once, before there is load.

        Raises:
            UserError: nobody answers there, or something else does.
        """
        if self._where is None:
            return
        try:
            _read(*self._where, FIRST_PATIENCE_S)
            return
        except MisdirectedError:
            raise UserError(f"--admin {self._url}: {misdirected(self.host)}") from None
        except OSError as error:
            why = f"nobody answers there ({error.strerror or error})"
        except NO_SERVER_OF_OURS:
            why = "that is not the admin port of a server of this project"
        raise UserError(
            f"--admin {self._url}: {why}; give the address of the server's --admin-port, "
            "or leave --admin out"
        )

    def look(self) -> None:
        """Ask if it is time to."""
        now_s = time.monotonic()
        if self._where is None or now_s < self._due_s:
            return
        try:
            self.moments.append(_read(*self._where))
        except (OSError, *NO_SERVER_OF_OURS):
            pass  # a gap
        self._due_s = max(self._due_s + EVERY_S, time.monotonic() + EVERY_S / 2)

    def between(self, begin_s: float, end_s: float) -> list[Moment]:
        return [moment for moment in self.moments if begin_s <= moment.at_s <= end_s]


def _read(host: str, port: int, patience_s: float = PATIENCE_S) -> Moment:
    connection = http.client.HTTPConnection(host, port, timeout=patience_s)
    begun_s = time.monotonic()
    try:
        connection.request("GET", "/stats")
        reply = connection.getresponse()
        text = reply.read()
        if reply.status == HTTPStatus.MISDIRECTED_REQUEST:
            raise MisdirectedError
        stats = json.loads(text)
    finally:
        connection.close()
    at_s = (begun_s + time.monotonic()) / 2
    if "threads" not in stats or "replies" not in stats:
        raise KeyError("no server of ours")
    pid = stats.get("pid")
    if not is_this_machine(host) or not _is_server(pid):
        return Moment(at_s, stats)
    cpu_s = time.clock_gettime(cpu_clock(pid))
    rss = rss_bytes({"pid": pid, "admin_port": port})
    return Moment(time.monotonic(), stats, cpu_s, rss, context_switches(pid))


def _is_server(pid: Any) -> bool:
    """Not so when it is in a container: its number is another process's here."""
    try:
        return b"servers" in Path(f"/proc/{int(pid)}/cmdline").read_bytes()
    except (OSError, ValueError, TypeError):
        return False


def columns(
    moments: Sequence[Moment], timeline: Mapping[str, Any], begun_s: float
) -> tuple[dict[str, Value], list[str]]:
    """The server's columns of a trial, from what was read in it; and what is odd.

    `timeline` is the whole run's; it began at `begun_s`.
    """
    if len(moments) < 2:
        return {}, []
    if any(moment.stats.get("pid") != moments[0].stats.get("pid") for moment in moments):
        return {}, ["the server was started anew, and counts from its start: its columns are empty"]
    first, last = moments[0], moments[-1]
    elapsed_s = last.at_s - first.at_s
    row: dict[str, Value] = {
        "server_requests": last.stats["replies"] - first.stats["replies"],
        "server_threads": last.stats["threads"],
        "server_rss_bytes": last.rss_bytes,
        "server_refused": (last.stats.get("connections") or {}).get("refused"),
        "server_errors": kinds(last.stats.get("errors")),
    }
    if first.cpu_s is not None and last.cpu_s is not None:
        row["server_cpu"] = (last.cpu_s - first.cpu_s) / elapsed_s
    if first.switches and last.switches:
        for number, kind in ((1, "voluntary"), (2, "involuntary")):
            changes = max(0, last.switches[number] - first.switches[number])
            row[f"server_{kind}_switches_per_s"] = changes / elapsed_s
    begin, end = (
        {"replies": edge.stats["replies"], "time_ns": edge.at_s * 1e9} for edge in (first, last)
    )
    apart, _ = compare_counts(begin, end, {"timeline": timeline, "start_ns": begun_s * 1e9})
    row[COUNTS_AGREE] = apart
    if apart is None or abs(apart) <= max(APART, APART_S / elapsed_s):
        return row, []
    text = (
        f"the server made {1 + apart:.2f} times the replies that the workers had: it had other "
        "clients, or a worker's account was lost"
    )
    return row, [text]


def raw(moments: Sequence[Moment], begin_s: float) -> dict[str, Any]:
    """For the trial's record: two snapshots, and what was read between them."""
    if not moments:
        return {"snapshots": None, "server_timeline": None}
    return {
        "snapshots": [moments[0].stats, moments[-1].stats],
        "server_timeline": [_at(moment, begin_s) for moment in moments],
    }


def _at(moment: Moment, begin_s: float) -> dict[str, Any]:
    stats = moment.stats
    return {
        "t_s": round(moment.at_s - begin_s, 4),
        **{name: stats.get(name) for name in ("requests", "replies", "rejected", "threads")},
        "connections": (stats.get("connections") or {}).get("now"),
        "stages": [
            {name: stage.get(name) for name in ("name", "queue_length", "threads", "batch")}
            for stage in stats.get("stages", ())
        ],
        "admission": stats.get("admission"),
    }
