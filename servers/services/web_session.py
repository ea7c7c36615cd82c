r"""HTTP/1.1 from bytes to requests; the grammar is llhttp's (`httptools`), the framing ours.

The parser is fed pieces that never extend beyond the end of a head, of a
chunked body, or of a body of known length.  The first two always end in
CR LF CR LF, the third is counted.  So after each piece we know where in the
stream we are: how long the head is so far, whether a message is incomplete,
whether a request is complete.  Limits are exact to the byte, and how the
bytes were split on their way does not affect the result.

No resource of this service takes a body: a body is read, within `max_body`, and
discarded.

Where the parser would frame a message differently from how we read its head (an
unknown coding, an unexpected tab), the message is refused: two interpretations of one
stream are how requests are smuggled past a proxy.

After a request whose reply is the last one (`Connection: close`, HTTP/1.0, a
protocol error) a session ignores all further bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

import httptools

from servers.authority import host_of
from servers.service import Request, Session, Step
from servers.services.web_page import CLOSE, KEEP_ALIVE, PLAIN, Page, ReplyForm

END = b"\r\n\r\n"

_NONE: tuple[WebRequest, ...] = ()


class Limits(Protocol):
    """The part of the service's options that a session needs."""

    @property
    def max_header(self) -> int: ...
    @property
    def max_body(self) -> int: ...


class WebEntry(Protocol):
    """The part of the service that a session needs: where requests enter."""

    @property
    def first(self) -> Step:
        """An ordinary request's step."""

    @property
    def respond(self) -> Step:
        """The step of a request whose page has been chosen already."""

    def refusal(self, status: HTTPStatus) -> Page:
        """The page for a request that cannot be served."""


class WebRequest(Request):
    """One request; its steps add what they find out."""

    __slots__ = ("form", "method", "page", "path", "query", "target")

    method: bytes
    target: bytes
    """As it was sent; the step `parse` derives `path` and `query` from it."""
    form: ReplyForm
    path: str
    query: str
    page: Page
    """The answer, for the step `respond`."""

    def __init__(self, step: Step, target: bytes, method: bytes, form: ReplyForm) -> None:
        # Without super().__init__, a call that would cost 0.1 us per request.
        self.step = step
        self.reply = ()
        self.last = False
        self.connection = None
        self.done = False
        self.context = None
        self.target = target
        self.method = method
        self.form = form


KEPT_HEADERS = frozenset((
    b"connection", b"content-length", b"expect", b"if-modified-since", b"if-none-match",
    b"transfer-encoding",
))  # fmt: skip
"""The headers whose values matter, besides Host."""

STRAY_BYTES = 2
"""Old clients send an empty line before a request; more bytes than that begin a head."""

OWS = b" \t"
"""Optional white space of RFC 9110; bytes.strip() strips more than that."""


class Fields:
    """What the parser has reported of the current message.

    Not the session itself: the parser references the object that it reports to, and a
    session and a parser that referenced each other would need the garbage collector.
    """

    __slots__ = ("complete", "host", "kept", "target")

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.target = b""
        self.host: bytes | None = None
        self.kept: dict[bytes, bytes] = {}
        self.complete = False

    def on_url(self, part: bytes) -> None:
        self.target += part  # arrives in parts if the bytes did

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        if name == b"host":
            self.host = value if self.host is None else b""  # two are invalid
        elif name in KEPT_HEADERS:
            before = self.kept.get(name)
            # A tab is kept in this one: the parser takes "chunked" with a tab for another coding.
            value = value.strip(b" " if name == b"transfer-encoding" else OWS)
            self.kept[name] = value if before is None else before + b"," + value

    def on_message_complete(self) -> None:
        self.complete = True


class WebSession(Session):
    """One connection of HTTP/1.1 or HTTP/1.0."""

    __slots__ = (
        "_blank", "_body_left", "_entry", "_feed", "_fields", "_first", "_limits", "_line",
        "_lines", "_number", "_over", "_parser", "_size", "_tail", "_waiting",
    )  # fmt: skip

    def __init__(self, entry: WebEntry, limits: Limits) -> None:
        self._entry = entry
        self._first = entry.first
        self._limits = limits
        self._fields = Fields()
        self._parser = httptools.HttpRequestParser(self._fields)
        # `_parse_unusual` judges version and coding, and answers with a more precise status.
        self._parser.set_dangerous_leniencies(lenient_version=True, lenient_transfer_encoding=True)
        self._feed = self._parser.feed_data
        self._number = 0  # requests received so far
        self._over = False  # the last request has been received
        self._blank = 0  # bytes of empty lines since the last request
        self._size = 0  # bytes so far of the current head or body
        self._tail = b""  # its last three bytes: END may be split
        self._line = b""  # the beginning of the head: the request line so far
        self._lines = False  # a whole line of the head has been received
        self._waiting: WebRequest | None = None  # its body is still missing
        self._body_left = 0  # of the missing body, unless it is chunked

    @property
    def idle(self) -> bool:
        return self._over or not (self._size or self._waiting)

    @property
    def head_pending(self) -> int:
        begun = self._size or self._blank > STRAY_BYTES
        return self._number + 1 if begun and not (self._over or self._waiting) else 0

    @property
    def body_pending(self) -> int:
        return self._number + 1 if self._waiting and not self._over else 0

    @property
    def body_bytes(self) -> int:
        return self._size

    def give_up(self) -> WebRequest:
        return self._refuse(HTTPStatus.REQUEST_TIMEOUT)

    def receive(self, data: memoryview) -> Sequence[WebRequest]:
        if self._over:
            return _NONE
        piece = data.tobytes()  # cheaper than searching and slicing a memoryview, even for a body
        if (
            0 < piece.find(END) == len(piece) - 4
            and len(piece) <= self._limits.max_header
            and not self._size
            and not self._waiting
            and piece[0] > 32
        ):
            # Nearly always: exactly one complete head.  `_pieces` would do the same.
            request = self._take(piece, True)
            return _NONE if request is None else (request,)
        return self._pieces(piece)

    def _pieces(self, data: bytes) -> list[WebRequest]:
        """Split `data` where heads and bodies end."""
        requests: list[WebRequest] = []
        start = 0
        while start < len(data) and not self._over:
            too_much: HTTPStatus | None = None
            whole = False
            if self._body_left:
                end = min(start + self._body_left, len(data))
                self._body_left -= end - start
                self._size += end - start
            else:
                if not self._size and not self._waiting and data[start] in b"\r\n":
                    # Empty lines before a request are ignored (RFC 9112, 2.2).
                    blank = len(data) - start - len(data[start:].lstrip(b"\r\n"))
                    self._blank += blank
                    start += blank
                    continue
                end, whole = self._find_end(data, start)
                limit = self._limits.max_body if self._waiting else self._limits.max_header
                if end - start > limit - self._size:
                    end = start + limit - self._size
                    too_much = self._excess(data[start:end])
                    whole = False
                self._note(data[start:end], whole)
            request = self._take(data[start:end], whole) if end > start else None
            if request is None and too_much:
                request = self._refuse(too_much)
            if request is not None:
                requests.append(request)
            start = end
        return requests

    def _find_end(self, data: bytes, start: int) -> tuple[int, bool]:
        """The index after the next END, which may begin in `_tail`, and whether there is one."""
        tail = len(self._tail)
        if tail:
            seam = (self._tail + data[start : start + 3]).find(END)
            if seam >= 0:
                return start + seam + 4 - tail, True
        found = data.find(END, start)
        return (len(data), False) if found < 0 else (found + 4, True)

    def _note(self, piece: bytes, whole: bool) -> None:
        """Account for a piece of a head or of a chunked body."""
        self._size += len(piece)
        if not (self._waiting or self._lines):
            self._line += piece
            self._lines = b"\n" in piece
        self._tail = b"" if whole else (self._tail + piece)[-3:]

    def _excess(self, piece: bytes) -> HTTPStatus:
        """The status for a message that exceeds its limit after `piece`."""
        if self._waiting:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        if self._lines or b"\n" in piece:
            return HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
        return HTTPStatus.REQUEST_URI_TOO_LONG

    def _take(self, piece: bytes, whole: bool) -> WebRequest | None:
        """Parse the next piece; `whole` if it ends a head, or possibly a chunked body."""
        fields = self._fields
        try:
            self._feed(piece)
        except httptools.HttpParserUpgrade:
            pass  # we stay with HTTP/1.1: an upgrade is the server's choice
        except httptools.HttpParserError:
            return self._refuse(HTTPStatus.BAD_REQUEST)
        request = self._waiting
        if request is None:
            if not whole:
                return None
            request = self._request(fields, self._line or piece)
            if not (fields.complete or self._over):
                return self._await_body(request, fields)
        elif not fields.complete:
            return None
        # Reset only what was changed: saves most requests a call and four stores.
        fields.target = b""
        fields.host = None
        fields.complete = False
        if fields.kept:
            fields.kept = {}
        if self._size or self._waiting or self._blank:
            self._begin_again()
        self._number += 1
        return request

    def _begin_again(self) -> None:
        self._blank = 0
        self._size = 0
        self._tail = b""
        self._line = b""
        self._lines = False
        self._waiting = None

    def _request(self, fields: Fields, head: bytes) -> WebRequest:
        """The request of a complete head, which begins with `head` (at least the request line)."""
        method = self._parser.get_method()
        target = fields.target
        host = fields.host
        end = len(method) + 1 + len(target)
        ordinary = (
            host is not None
            and head[end : end + 10] == b" HTTP/1.1\r"  # twice as fast as startswith()
            and host_of(host) is not None
        )
        # Without a Connection header only HTTP/1.1 keeps a connection alive.
        if ordinary and not fields.kept and method == b"GET":
            return WebRequest(self._first, target, method, PLAIN)
        return self._parse_unusual(fields, method, head, ordinary)

    def _parse_unusual(
        self, fields: Fields, method: bytes, head: bytes, ordinary: bool
    ) -> WebRequest:
        """`ordinary`: of HTTP/1.1, with a Host."""
        kept = fields.kept
        version = "1.1"
        if not ordinary or b"transfer-encoding" in kept:
            version = self._parser.get_http_version()
            protocol = head[len(method) + 1 + len(fields.target) :][:6]
            refused = _refused(fields, version, protocol)
            if refused is not None:
                return self._refuse(refused, method)
        wishes = _tokens(kept.get(b"connection", b""))
        stays = b"close" not in wishes and (version == "1.1" or b"keep-alive" in wishes)
        if method == b"CONNECT" or (self._parser.should_upgrade() and _has_body(kept)):
            stays = False  # the parser treats what follows as another protocol
        expect = kept.get(b"expect") if version == "1.1" and not fields.complete else None
        if expect is not None and b"100-continue" in _tokens(expect):
            # The peer waits for permission to send a body that nobody needs.  It gets the
            # final status instead of 100 (RFC 9110, section 10.1.1).
            stays = False
        connection = (b"" if version == "1.1" else KEEP_ALIVE) if stays else CLOSE
        none_match = kept.get(b"if-none-match")
        modified_since = kept.get(b"if-modified-since")
        form = PLAIN
        if connection or method == b"HEAD" or none_match is not None or modified_since is not None:
            form = ReplyForm(connection, method == b"HEAD", none_match, modified_since)
        request = WebRequest(self._first, fields.target, method, form)
        request.last = self._over = not stays
        return request

    def _await_body(self, request: WebRequest, fields: Fields) -> WebRequest | None:
        """The head is complete, the body is not: hold the request until it is."""
        size_bytes = int(fields.kept.get(b"content-length", b"0"))  # the parser has validated it
        if size_bytes > self._limits.max_body:
            return self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, request.method)
        self._begin_again()
        self._body_left = size_bytes
        self._waiting = request
        return None

    def _refuse(self, status: HTTPStatus, method: bytes = b"") -> WebRequest:
        """The last request of this connection, with the page that answers it."""
        self._over = True
        if self._waiting:
            method = self._waiting.method
        form = ReplyForm(CLOSE, head_only=method == b"HEAD")
        request = WebRequest(self._entry.respond, b"", method, form)
        request.page = self._entry.refusal(status)
        request.last = True
        return request


def _has_body(kept: dict[bytes, bytes]) -> bool:
    return b"transfer-encoding" in kept or kept.get(b"content-length", b"0") != b"0"


def _refused(fields: Fields, version: str, protocol: bytes) -> HTTPStatus | None:
    """Why a request with a complete head cannot be served; None if it can.

    `protocol` is what follows the target: it must be " HTTP/" with exactly one space
    (the parser knows RTSP as well).
    """
    if version not in ("1.0", "1.1"):
        return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
    if protocol != b" HTTP/":
        return HTTPStatus.BAD_REQUEST
    if host_of(fields.host or b"") is None and not (fields.host is None and version == "1.0"):
        return HTTPStatus.BAD_REQUEST
    coding = fields.kept.get(b"transfer-encoding")
    if coding is None:
        return None
    if version == "1.0" or b"content-length" in fields.kept:  # ambiguous framing: RFC 9112, 6.1
        return HTTPStatus.BAD_REQUEST
    if _tokens(coding) - {b"chunked", b""}:
        return HTTPStatus.NOT_IMPLEMENTED
    # The parser treats nothing else as chunked: no list, and no tab.
    return None if coding.lower() == b"chunked" else HTTPStatus.BAD_REQUEST


@lru_cache(maxsize=64)  # clients repeat the same few values
def _tokens(value: bytes) -> frozenset[bytes]:
    """The members of a list-valued header, in lower case."""
    return frozenset(token.strip(OWS) for token in value.lower().split(b","))
