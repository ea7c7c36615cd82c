"""The service `web`: the web server of Figure 3 of Welsh and Culler (HotOS 2001).

    parse -> route -> lookup ------------------------> respond
               |        '-(miss)-> read_file -------------^
               |-> compute -------------------------------|
               '-> (landing page, health, 404, 405) ------'

This module holds only the graph.  HTTP is in `web_session.py`, replies in
`web_page.py`, files and paths in `web_files.py`, and the cache in `page_cache.py`.

Static files are assumed not to change while the server runs: a cached page is not
compared with the disk again.

The cost of an ordinary request from bytes to reply, without a socket (a GET
of a cached page of 1 KB, CPython 3.11, a quiet machine): 2.2 us, of which the
session takes 1.3, a third of that in httptools, and parse, route, lookup and
respond 0.1 to 0.2 each.  A browser's GET, with six more headers: 4.2 us.
"""

from __future__ import annotations

import errno
import html
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from servers.options import option
from servers.service import Request, Service, Session, Step, step
from servers.services.compute import calibrate, spin
from servers.services.page_cache import PageCache
from servers.services.shared_reads import SharedReads
from servers.services.web_files import Disk, DocumentRoot, parse_target
from servers.services.web_page import Page, date_line, error_page
from servers.services.web_session import WebRequest, WebSession

METHODS = (b"GET", b"HEAD")

RETRY_AFTER_S = 1
"""Sent with a 503: the shortest time that the header can express."""

MAX_COMPUTE_US = 1_000_000

MAX_CACHED_TARGETS = 16_384
"""Parsed targets kept: enough for a document root of 2 GB, at about 0.5 KB each."""

MAX_CACHED_TARGET_BYTES = 256
"""A longer one is parsed each time, so that this cache is bounded in bytes, too."""

_ABSENT = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENXIO, errno.ENODEV,  # a socket, or a device that is not there
)  # fmt: skip
_DENIED = (errno.EACCES, errno.EPERM)

HTML = "text/html; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
JSON = "application/json"


@dataclass(frozen=True)
class WebOptions:
    """What is served, and the sizes of the parts of the server."""

    docroot: str = option("", "directory of the static files (default: none)", metavar="PATH")
    cache_bytes: int = option(
        64_000_000, "size of the page cache; 0: no cache, every request reads the disk", minimum=0,
        maximum=1 << 40, metavar="BYTES",
    )  # fmt: skip
    disk_ms: float = option(
        0.0, "mean read time of a modelled disk in front of the files; 0: no such disk", minimum=0,
        metavar="MS",
    )  # fmt: skip
    disk_slots: int = option(
        1, "reads that the modelled disk serves concurrently", minimum=1, metavar="N"
    )
    disk_faults: float = option(
        0.0, "share of reads that fail with an I/O error", minimum=0, maximum=1, metavar="SHARE"
    )
    disk_seed: int = option(1, "seed of the modelled disk", metavar="N")
    compute_loops_per_us: float = option(
        0.0, "loops per microsecond of /compute; 0: measured at start-up", minimum=0,
        metavar="N",
    )  # fmt: skip
    max_header: int = option(
        8192, "maximum size of the request line and headers", minimum=64, metavar="BYTES"
    )
    max_body: int = option(
        65_536, "maximum size of a request body, which is discarded", minimum=0, metavar="BYTES"
    )


class Web(Service):
    """The graph of Figure 3; its steps in order."""

    name = "web"
    summary = "HTTP/1.1: static files through a page cache, /compute?us=N (the paper's Figure 3)"
    Options = WebOptions
    options: WebOptions

    def __init__(self, options: WebOptions) -> None:
        super().__init__(options)
        self._root = (
            DocumentRoot(options.docroot, options.cache_bytes // 2 or sys.maxsize)
            if options.docroot
            else None
        )
        self._shared: SharedReads[Page] = SharedReads()
        self._disk = Disk(
            options.disk_ms, options.disk_slots, options.disk_faults, options.disk_seed
        )
        self._cache: PageCache[Page] = PageCache(options.cache_bytes)
        self._targets: dict[bytes, tuple[str, str]] = {}
        self._loops_per_us = options.compute_loops_per_us
        self._routes: dict[str, tuple[Step, Page | None]] = {
            "/healthz": (self.respond, Page(b"ok\n", TEXT)),
            "/compute": (self.compute, None),
        }
        self._put_landing_page()
        self._refusals = _refusals()
        self._lock = threading.Lock()  # guards the counts below; ordinary requests do not take it
        self._refused: Counter[int] = Counter()
        self._reads = 0
        self._read_bytes = 0
        self._read_errors = 0
        self._computed_us = 0
        self._second = -1  # of `_date`
        self._date = b""

    def start(self) -> None:
        self._loops_per_us = self._loops_per_us or calibrate()
        self._put_landing_page()

    @property
    def first(self) -> Step:
        return self.parse

    @property
    def entries(self) -> tuple[Step, ...]:
        return (self.parse, self.respond)  # protocol errors are answered at once

    def session(self) -> Session:
        return WebSession(self, self.options)

    # -- the steps

    @step(to=("route", "respond"))
    def parse(self, request: WebRequest) -> Step | None:
        """Find path and query of the target."""
        target = request.target
        parsed = self._targets.get(target)
        if parsed is None:
            try:
                parsed = parse_target(target)
            except ValueError:  # `OPTIONS *` and `CONNECT host:1` have no path either
                known = request.method in METHODS
                return self._refuse(
                    request, HTTPStatus.BAD_REQUEST if known else HTTPStatus.METHOD_NOT_ALLOWED
                )
            self._remember(target, parsed)
        request.path, request.query = parsed
        return self.route

    @step(to=("lookup", "compute", "respond"))
    def route(self, request: WebRequest) -> Step | None:
        """Choose the step that answers it."""
        if request.method not in METHODS:
            return self._refuse(request, HTTPStatus.METHOD_NOT_ALLOWED)
        route = self._routes.get(request.path)
        if route is None:
            return self.lookup
        following, page = route
        if page is not None:
            request.page = page
        return following

    @step
    def lookup(self, request: WebRequest) -> Step | None:
        """Look into the page cache."""
        page = self._cache.get(request.path)
        if page is None:
            return self.read_file
        request.page = page
        return self.respond

    @step(blocking=True)
    def read_file(self, request: WebRequest) -> Step | None:
        """A miss: read the disk, modelled or real; one read serves all concurrent misses."""
        root = self._root
        if root is None:
            return self._refuse(request, HTTPStatus.NOT_FOUND)

        def find(path: str) -> Page | None:
            return self._cache.peek(path) or root.in_use(path)

        def read(path: str) -> Page:
            self._disk.read()
            page = root.read(path)
            with self._lock:
                self._reads += 1
                self._read_bytes += len(page.body)
            self._cache.put(path, page)
            return page

        try:
            if self.options.cache_bytes:
                request.page = self._shared.get(request.path, find, read)
            else:  # without a cache, each request is meant to cost a read
                request.page = read(request.path)
        except OSError as error:
            return self._refuse(request, self._read_failed(error))
        return self.respond

    @step
    def compute(self, request: WebRequest) -> Step | None:
        """`us=N` microseconds of work; `compute_loops_per_us` defines a microsecond."""
        try:
            (text,) = parse_qs(request.query, max_num_fields=8)["us"]
            us = int(text) if text.isdecimal() and len(text) < 9 else -1
        except (KeyError, ValueError):
            us = -1
        if not 0 <= us <= MAX_COMPUTE_US:
            return self._refuse(request, HTTPStatus.BAD_REQUEST)
        loops = round(us * self._loops_per_us)
        spin(loops)
        with self._lock:
            self._computed_us += us
        request.page = Page(json.dumps({"us": us, "loops": loops}).encode() + b"\n", JSON)
        return self.respond

    @step
    def respond(self, request: WebRequest) -> Step | None:
        """Make the bytes of the reply."""
        now_s = int(time.time())
        if now_s != self._second:
            self._date = date_line(now_s)  # before `_second`, which other threads check
            self._second = now_s
        request.reply = request.page.reply(self._date, request.form)
        return None

    # -- other outcomes of a request

    def reject(self, request: Request) -> None:
        """Shed: 503; the connection stays open for another attempt."""
        self._answer(request, HTTPStatus.SERVICE_UNAVAILABLE)

    def fail(self, request: Request, error: Exception) -> None:
        """A step raised: 500; the connection stays open."""
        self._answer(request, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _answer(self, request: Request, status: HTTPStatus) -> None:
        assert isinstance(request, WebRequest)
        self._refuse(request, status)
        self.respond(request)

    def _refuse(self, request: WebRequest, status: HTTPStatus) -> Step:
        request.page = self.refusal(status)
        respond: Step = self.respond
        return respond

    def refusal(self, status: HTTPStatus) -> Page:
        """The page for an error status; counts it."""
        with self._lock:
            self._refused[status] += 1
        return self._refusals[status]

    def _read_failed(self, error: OSError) -> HTTPStatus:
        if error.errno in _ABSENT:
            return HTTPStatus.NOT_FOUND
        with self._lock:
            self._read_errors += 1
        return HTTPStatus.FORBIDDEN if error.errno in _DENIED else HTTPStatus.INTERNAL_SERVER_ERROR

    # -- the rest

    def _remember(self, target: bytes, parsed: tuple[str, str]) -> None:
        if len(target) <= MAX_CACHED_TARGET_BYTES:
            if len(self._targets) >= MAX_CACHED_TARGETS:
                self._targets.clear()  # crude, but targets in use are soon back
            self._targets[target] = parsed

    def _put_landing_page(self) -> None:
        self._routes["/"] = (self.respond, Page(_landing_page(self.about).encode(), HTML))

    def stats(self) -> dict[str, Any]:
        with self._lock:
            return {
                "cache": self._cache.stats(),
                "disk": {
                    "reads": self._reads,
                    "bytes": self._read_bytes,
                    "errors": self._read_errors,
                },
                "computed_us": self._computed_us,
                "compute_loops_per_us": self._loops_per_us,
                "refused": {str(int(status)): count for status, count in self._refused.items()},
            }


def _refusals() -> dict[HTTPStatus, Page]:
    """One page for every error status."""
    allow = {"Allow": b", ".join(METHODS).decode()}
    retry = {"Retry-After": str(RETRY_AFTER_S)}
    return {
        status: error_page(status, headers)
        for status, headers in (
            (HTTPStatus.BAD_REQUEST, {}),
            (HTTPStatus.FORBIDDEN, {}),
            (HTTPStatus.NOT_FOUND, {}),
            (HTTPStatus.METHOD_NOT_ALLOWED, allow),
            (HTTPStatus.REQUEST_TIMEOUT, {}),
            (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {}),
            (HTTPStatus.REQUEST_URI_TOO_LONG, {}),
            (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, {}),
            (HTTPStatus.INTERNAL_SERVER_ERROR, {}),
            (HTTPStatus.NOT_IMPLEMENTED, {}),
            (HTTPStatus.SERVICE_UNAVAILABLE, retry),
            (HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, {}),
        )
    }


def _landing_page(about: Mapping[str, object]) -> str:
    """Explains this server to a person who opens it in a browser."""
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{_shown(str(value))}</td></tr>\n"
        for name, value in (about or {"service": Web.name}).items()
    )
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>sedabench: a server under test</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 40em; margin: 3em auto; padding: 0 1em }}
th {{ text-align: left; padding-right: 1.5em; font-weight: 600 }}
</style>
<h1>sedabench</h1>
<p>A server under test: the service <code>web</code>, written once, here run by one of the
architectures that are being compared.</p>
<table>
{rows}</table>
<p><a href="/healthz">/healthz</a> · <a href="/compute?us=1000">/compute?us=1000</a></p>
</html>
"""


def _shown(text: str) -> str:
    safe = html.escape(text)
    return f'<a href="{safe}">{safe}</a>' if "://" in text else safe
