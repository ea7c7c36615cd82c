"""A tab in Locust's web page: the stages of the server under test, live, from its admin port.

One greenlet asks `/stats` once a second, whoever looks at the page; the tab is
one of Locust's extended tables, which its page refreshes by itself.  The same
rows are at `/stages`, as JSON.

And a guard for the page itself, which can start load: at a loopback address it
answers no other page of its visitor's browser (`guard`).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

import gevent
from flask import Response, jsonify, request
from locust.env import Environment

from loadgen.errors import LoadError
from loadgen.net.targets import resolve

INTERVAL_S = 1.0
TIMEOUT_S = 2.0

KEY = "stages"

MISDIRECTED = 421
LOOPBACK = ("localhost", "127.0.0.1", "::1")

COLUMNS = {
    "stage": "Stage",
    "queue": "Queue",
    "threads": "Threads",
    "events_per_s": "Events/s",
    "batch": "Events a batch",
    "busy": "Busy threads",
    "wait_us": "Wait (us)",
    "lost": "Lost",
    "admission": "Admission",
}


class Stages:
    """What the server said last, as rows of a table."""

    def __init__(self, url: str, allow_remote: bool) -> None:
        full = url if "://" in url else f"http://{url}"
        parts = urlsplit(full)
        resolve(parts.netloc, allow_remote=allow_remote)
        self.url = f"{parts.scheme}://{parts.netloc}/stats"
        self.rows: list[dict[str, Any]] = []
        self._before: dict[str, Any] | None = None

    def watch(self) -> None:
        while True:
            try:
                with urllib.request.urlopen(self.url, timeout=TIMEOUT_S) as reply:
                    now = json.load(reply)
                self.rows = rows(self._before or now, now)
                self._before = now
            except (OSError, ValueError, KeyError) as error:
                reason = getattr(error, "reason", error)
                if isinstance(error, urllib.error.HTTPError) and error.code == MISDIRECTED:
                    name = urlsplit(self.url).hostname
                    reason = f"it knows no such name; start the server with --admin-name {name}"
                self.rows = [{"stage": f"{self.url} does not answer: {reason}"}]
                self._before = None
            gevent.sleep(INTERVAL_S)


def rows(before: dict[str, Any], now: dict[str, Any]) -> list[dict[str, Any]]:
    """A row a stage, from two answers of `/stats`; one for the server if it has no stages."""
    elapsed_s = max(1e-9, (now["time_ns"] - before["time_ns"]) / 1e9)
    admission = now.get("admission")
    said = ", ".join(f"{name} {_short(value)}" for name, value in (admission or {}).items())
    found = [
        {
            "stage": f"{now['architecture']}: all",
            "threads": now["threads"],
            "events_per_s": round((now["replies"] - before["replies"]) / elapsed_s),
            "lost": now["rejected"],
            "admission": said,
        }
    ]
    earlier = {stage["name"]: stage for stage in before["stages"]}
    for stage in now["stages"]:
        past = earlier.get(stage["name"], stage)
        events = stage["events_out"] - past["events_out"]
        batches = stage["batches"] - past["batches"]
        capacity = stage["queue_capacity"]
        found.append(
            {
                "stage": stage["name"],
                "queue": "kernel" if capacity is None else f"{stage['queue_length']}/{capacity}",
                "threads": stage["threads"],
                "events_per_s": round(events / elapsed_s),
                "batch": round(events / batches, 1) if batches else 0,
                "busy": round((stage["busy_s"] - past["busy_s"]) / elapsed_s, 2),
                "wait_us": _wait_us(past, stage, events),
                "lost": stage["dropped"],
                "admission": "",
            }
        )
    return found


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _wait_us(past: dict[str, Any], stage: dict[str, Any], events: int) -> int | str:
    if stage["wait_s"] is None or not events:
        return ""
    waited_s: float = stage["wait_s"] - past["wait_s"]
    return round(waited_s / events * 1e6)


def guard(environment: Environment, web_host: str) -> None:
    """At a loopback address, refuse requests that another site has the browser make.

    Such a site either lets its own name resolve to this machine (DNS rebinding): then
    `Host` says that name; or it sends a form here: then `Origin` names the site.
    """
    web_ui = environment.web_ui
    if web_ui is None or web_ui.app is None or web_host not in LOOPBACK:
        return

    @web_ui.app.before_request
    def refuse() -> Response | None:
        origin = request.headers.get("Origin")
        for url in (f"//{request.headers.get('Host', '')}", origin):
            if url is not None and _host(url) not in LOOPBACK:
                text = f"not for {url}; open this page at 127.0.0.1 or localhost\n"
                return Response(text, MISDIRECTED, mimetype="text/plain")
        return None


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def add_tab(environment: Environment, url: str, allow_remote: bool) -> None:
    """To the web page of this process.  Raises LoadError for an address that is not allowed."""
    web_ui = environment.web_ui
    if web_ui is None or web_ui.app is None:
        raise LoadError("there is no web page to add a tab to")
    stages = Stages(url, allow_remote)
    gevent.spawn(stages.watch)
    web_ui.template_args["extended_tabs"] = [{"title": "Stages", "key": KEY}]
    web_ui.template_args["extended_tables"] = [
        {
            "key": KEY,
            "structure": [{"key": key, "title": title} for key, title in COLUMNS.items()],
        }
    ]

    @web_ui.app.route("/stages")
    def answer() -> Response:
        return jsonify(stages.rows)

    @web_ui.app.after_request
    def extend(response: Response) -> Response:
        if request.path.endswith("/stats/requests") and response.is_json:
            said = json.loads(response.get_data())
            said["extended_stats"] = [{"key": KEY, "data": stages.rows}]
            response.set_data(json.dumps(said))
        return response
