"""A page: a body, its headers, and the reply that they make.

Everything that `web` answers is a page, files as well as errors.  The parts of a
reply that are the same for every request are assembled once, and the Date header once
per second and page; so an ordinary reply costs one comparison.  Only a request that
wants another form of the reply (`ReplyForm`: HEAD, conditions, the Connection header) has
it assembled for itself.

Pages are shared by all threads and never change, except for `_made`, one tuple
that is replaced as a whole: two threads at the turn of a second may both make
the same one.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import formatdate, parsedate_to_datetime
from http import HTTPStatus
from typing import NamedTuple

from servers.service import Buffer
from servers.services.page_cache import Cached

JOINED_BYTES = 16_384
"""A body up to this size is sent in one buffer with its headers, and kept twice for that.

A second buffer means sendmsg() instead of send(), 0.35 us more on loopback, which is
what copying 16 KB once per second costs; and where each buffer has a call of its
own, twice the system calls.  SPECweb99's two small classes, 85 % of requests
and 1 % of bytes, fit.
"""

OVERHEAD_BYTES = 900
"""Of a cached page besides its bytes: objects, key, cache entries; by tracemalloc."""

CLOSE = b"Connection: close\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"


class ReplyForm(NamedTuple):
    """The form in which a request wants its reply."""

    connection: bytes = b""
    """The Connection header line, if the reply needs one."""
    head_only: bool = False
    none_match: bytes | None = None
    modified_since: bytes | None = None


PLAIN = ReplyForm()
"""An unconditional GET on a persistent connection of HTTP/1.1: nearly every request."""


class Page(Cached):
    """One answer, ready to be sent any number of times."""

    __slots__ = (
        "_made",
        "_modified",
        "_status_line",
        "body",
        "etag",
        "headers",
        "modified_s",
        "validators",
    )

    def __init__(
        self,
        body: Buffer,
        kind: str,
        *,
        status: HTTPStatus = HTTPStatus.OK,
        etag: bytes = b"",
        modified_s: int = 0,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`etag` with its quotes; `modified_s` in whole seconds since 1970; both or neither."""
        lines = {"Content-Type": kind, "Content-Length": str(len(body))} | dict(headers or {})
        self._status_line = _status_line(status)
        self.body = body
        self.etag = etag
        self.modified_s = modified_s
        self._modified = formatdate(modified_s, usegmt=True).encode()
        self.validators = (
            b"ETag: %b\r\nLast-Modified: %b\r\n" % (etag, self._modified) if etag else b""
        )
        self.headers = _header_lines(lines) + self.validators
        kept = 2 * len(body) if len(body) <= JOINED_BYTES else len(body)
        self.size_bytes = kept + 2 * len(self.headers) + OVERHEAD_BYTES
        self.stamp = 0
        self._made: tuple[bytes, tuple[Buffer, ...]] = (b"", ())

    def reply(self, date: bytes, form: ReplyForm) -> tuple[Buffer, ...]:
        """The buffers of the reply; `date` is the Date header's line.

        Within one second it must be the same object.
        """
        if form is PLAIN:
            made_for, reply = self._made
            if made_for is not date:
                reply = self._assemble(date, b"")
                self._made = date, reply
            return reply
        if self.etag and self._unchanged(form):
            not_modified = _status_line(HTTPStatus.NOT_MODIFIED)
            return (not_modified + date + form.connection + self.validators + b"\r\n",)
        if form.head_only:
            return (self._head(date, form.connection),)
        return self._assemble(date, form.connection)

    def _head(self, date: bytes, connection: bytes) -> bytes:
        return b"".join((self._status_line, date, connection, self.headers, b"\r\n"))

    def _assemble(self, date: bytes, connection: bytes) -> tuple[Buffer, ...]:
        head = self._head(date, connection)
        if len(self.body) <= JOINED_BYTES:
            return (head + self.body,)
        return (head, self.body)  # not copied: every connection sends from the same bytes

    def _unchanged(self, form: ReplyForm) -> bool:
        """RFC 9110, section 13.2.2: If-None-Match decides alone when it is there."""
        if form.none_match is not None:
            tags = form.none_match.split(b",")
            weak = {tag.strip().removeprefix(b"W/") for tag in tags}
            return self.etag in weak or weak == {b"*"}
        if form.modified_since is not None:
            if form.modified_since == self._modified:  # exactly what we sent
                return True
            since_s = _parse_date(form.modified_since)
            return since_s is not None and self.modified_s <= since_s
        return False


def error_page(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Page:
    """The answer to a request that cannot be served."""
    text = f"{status.value} {status.phrase}\n"
    return Page(text.encode(), "text/plain; charset=utf-8", status=status, headers=headers)


def date_line(now_s: int) -> bytes:
    """The Date header's line."""
    return _header_lines({"Date": formatdate(now_s, usegmt=True)})


def _status_line(status: HTTPStatus) -> bytes:
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode()


def _header_lines(headers: Mapping[str, str]) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode("latin-1")


def _parse_date(text: bytes) -> float | None:
    """Seconds since 1970; None if it is not a date and must be ignored."""
    try:
        date = parsedate_to_datetime(text.decode("ascii"))
        if date.tzinfo is None:  # "-0000", which means UTC in RFC 5322
            date = date.replace(tzinfo=UTC)
        return (date - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    except (ValueError, OverflowError):  # not a date, or a year or offset out of range
        return None
