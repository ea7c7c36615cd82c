"""HTTP/1.1 replies, from bytes to a verdict: the grammar is llhttp's (`httptools`), framing ours.

A load generator sees the same few heads again and again: they differ by the
request and, once a second, by their Date.  So the engine remembers under the
very bytes of a head what it said: how long the reply is and whether that is
what was asked for.  Its hot loop looks a head up and compares two lengths.
Everything else (a head not seen before, a body in chunks or one that ends with
the connection, HEAD, 1xx) goes through a `Reply`.

The parser is given heads, trailers and unusual chunk lines, piece by piece as
they arrive: what it refuses is refused at once and not waited for.  It is not
given bodies.  Nobody can tell it that a reply answers HEAD, it does not tell
where a body ends, and what frames a body must be decided in one place.

A server under test may send anything, and one connection must not hold up the
others: the time that bytes cost is proportional to their number, however they
are cut, and nothing that is kept grows without a limit.

Nothing here knows a socket or a clock.
"""

from __future__ import annotations

import re
from functools import lru_cache

import httptools

END = b"\r\n\r\n"

START = b"HTTP/1."

MAX_HEAD_BYTES = 64 * 1024
"""Of a head, and of the trailers: one that does not end by then is not a reply's."""

MAX_CHUNK_LINE_BYTES = 4096
"""Of the line that says how long a chunk is; it may have extensions."""

MAX_INTERIM_REPLIES = 64
"""With status 1xx, before the reply.  A real server sends one or two."""

_CHUNK_LINE = re.compile(rb"\r\n([0-9A-Fa-f]{1,16})(?:;[\w-]{1,99}(?:=[\w-]{1,99})?){0,9}\r\n")
"""An ordinary one, after the end of the line or chunk before it; its extensions are plain words.

What looks otherwise is the parser's to judge, at 7 us a line: a peer that sends nothing else would
keep the loop from its other connections.
"""

_CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

_QUOTED_BYTES = 24


class BadReplyError(Exception):
    """What came is not an HTTP/1.1 reply.  One line."""


class _Fields:
    """What the parser said about the head that it is in.

    Not the reply itself: the parser holds on to whom it tells, and a reply and
    a parser that held each other would be left to the garbage collector, which
    is off while load is sent.
    """

    __slots__ = ("codings", "complete", "connection", "length")

    def __init__(self) -> None:
        self.length = -1
        self.codings = b""
        self.connection = b""
        self.complete = False

    # Called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length":
                self.length = int(value)  # the parser has seen that it is a number
            case b"transfer-encoding":
                self.codings += value + b","
            case b"connection":
                self.connection += value + b","

    def on_headers_complete(self) -> None:
        self.complete = True

    def on_message_complete(self) -> None:
        self.complete = True


class Reply:
    """One reply that is coming in, in whatever pieces.

    `complete` becomes True with its last byte; `spare` counts bytes beyond it.
    `head` does not include the interim replies (1xx) before it.
    The body is dropped, unless there is a list `body` for its pieces.
    """

    __slots__ = (
        "_body", "_chunk_left", "_chunk_line", "_fields", "_in_trailers", "_interim_replies",
        "_lines", "_no_body", "_parser", "_until_close", "body_bytes", "complete", "head",
        "keep_alive", "length", "spare", "status",
    )  # fmt: skip

    def __init__(self, head_only: bool = False, body: list[bytes] | None = None) -> None:
        self._fields = _Fields()
        self._parser = httptools.HttpResponseParser(self._fields)
        self._lines = bytearray()  # so far, of a head or of trailers that come in pieces
        self._no_body = head_only
        self._body = body
        self._interim_replies = 0
        self._until_close = False
        self._chunk_left = 0  # bytes of the chunk that we are in
        self._chunk_line = b"\r\n"  # so far; the first one is preceded by the end of the head
        self._in_trailers = False
        self.head = b""
        self.length = -1
        self.status = 0
        self.keep_alive = False
        self.body_bytes = 0
        self.complete = False
        self.spare = 0

    def feed(self, data: bytes) -> None:
        """Take in what arrived.  Raises BadReplyError."""
        at, size = 0, len(data)
        while at < size and not self.complete:
            if not self.status:
                at = self._feed_head(data, at)
            elif self._until_close:
                self._take(data, at, size)
                at = size
            elif self.length >= 0:
                end = min(size, at + self.length - self.body_bytes)
                self._take(data, at, end)
                self.complete = self.body_bytes == self.length
                at = end
            elif self._in_trailers:
                at = self._feed_lines(data, at, "the trailer section of a reply")
                self.complete = self._fields.complete
            else:
                at = self._feed_chunks(data, at)
        self.spare += size - at

    def end(self) -> bool:
        """The connection ended; was the reply whole by that?"""
        if self._until_close and not self.complete:
            self.complete = True
        return self.complete

    @property
    def begun(self) -> bool:
        return bool(self._lines or self.status or self._interim_replies)

    def _take(self, data: bytes, at: int, end: int) -> None:
        self.body_bytes += end - at
        if self._body is not None:
            self._body.append(data[at:end])

    # What follows takes bytes of `data` from `at` on, and returns how far it got.

    def _feed_lines(self, data: bytes, at: int, what: str) -> int:
        """As far as the empty line: `_fields.complete` is whether it has come."""
        lines = self._lines
        end = _find_end(lines, data, at)
        piece = data[at:end] if end >= 0 else data[at:]
        room = MAX_HEAD_BYTES - len(lines)
        _parse(self._parser, piece[:room], what, lines)
        if len(piece) > room:
            raise BadReplyError(f"{what} is longer than {MAX_HEAD_BYTES} bytes")
        if self._fields.complete != (end >= 0):
            raise BadReplyError(f"{what} does not end with CR LF CR LF: {_begin(lines, piece)}")
        if lines or end < 0:
            lines += piece
        return at + len(piece)

    def _feed_head(self, data: bytes, at: int) -> int:
        lines = self._lines
        if lines or not data.startswith(START, at):
            begin = bytes(lines[: len(START)]) + data[at : at + len(START)]
            if begin[: len(START)] != START[: len(begin)]:
                raise BadReplyError(
                    f"a reply begins with {_begin(lines, data[at:])}; "
                    "HTTP/2 and TLS are not supported"
                )
        end = self._feed_lines(data, at, "the head of a reply")
        if self._fields.complete:
            self.head = bytes(lines) if lines else data[at:end]
            lines.clear()
            self._read_head()
        return end

    def _read_head(self) -> None:
        """The head is complete: what does it say of what follows?"""
        status = self._parser.get_status_code()
        if status < 100:
            raise BadReplyError(f"{status:03} is not a status code")
        if status < 200:  # 100 Continue, 103 Early Hints: the reply is still to come
            self._interim_replies += 1
            if self._interim_replies > MAX_INTERIM_REPLIES:
                raise BadReplyError(
                    f"over {MAX_INTERIM_REPLIES} interim replies (1xx) precede a reply"
                )
            self._fields = _Fields()
            self._parser = httptools.HttpResponseParser(self._fields)
            return
        self.status = status
        fields = self._fields
        # Not should_keep_alive(): it takes a reply to HEAD for one that the end completes.
        self.keep_alive = not self.head.startswith(b"HTTP/1.0")
        if fields.connection:
            options = _tokens(fields.connection)
            lasts = self.keep_alive or b"keep-alive" in options
            self.keep_alive = lasts and b"close" not in options
        if self._no_body or status in (204, 304):
            self.length = fields.length
            self.complete = True
        elif fields.codings:
            self._until_close = _tokens(fields.codings)[-1:] != [b"chunked"]
        else:
            self.length = fields.length
            self.complete = self.length == 0
            self._until_close = self.length < 0
        if self._until_close:
            self.keep_alive = False

    def _feed_chunks(self, data: bytes, at: int) -> int:
        """As far as the last chunk, and the empty line if it comes without trailers."""
        size, left, body, taken = len(data), self._chunk_left, self._body, 0
        if at >= 2 and self._chunk_line:  # of the head that ends here: found faster together
            self._chunk_line = b""
            at -= 2
        while at < size:
            if not left:
                end = 0 if self._chunk_line else data.find(b"\r\n", at + 2, at + 20) + 2
                left = _chunk_bytes(data[at:end]) if end > 2 else -1
                if left >= 0:
                    at = end
                else:
                    at, left = self._feed_chunk_line(data, at)
                if left <= 0:
                    if left < 0:
                        left = 0
                        continue
                    at = self._end_chunks(data, at)
                    break
            end = at + left
            if end > size:
                end = size
            left -= end - at
            taken += end - at
            if body is not None:
                body.append(data[at:end])
            at = end
        self._chunk_left = left
        self.body_bytes += taken
        return at

    def _feed_chunk_line(self, data: bytes, at: int) -> tuple[int, int]:
        """Any chunk line; with it the size of its chunk, or -1 if there is more of it to come."""
        known = len(self._chunk_line)
        line = self._chunk_line + data[at : at + MAX_CHUNK_LINE_BYTES]
        end = line.find(b"\r\n", 2) + 2
        if end > 2:
            line = line[:end]
            chunk_bytes = _chunk_bytes(line)
            if chunk_bytes >= 0:
                self._chunk_line = b""
                return at + end - known, chunk_bytes
        if line[:2] != b"\r\n"[: len(line)]:
            raise BadReplyError(f"a chunk is not followed by CR LF but by {_begin(b'', line)}")
        parser = httptools.HttpResponseParser(None)
        parser.feed_data(_CHUNKED_HEAD)
        _parse(parser, line[2:], "the size of a chunk")
        if len(line) > MAX_CHUNK_LINE_BYTES:
            raise BadReplyError(
                f"the line with a chunk's size is longer than {MAX_CHUNK_LINE_BYTES} bytes"
            )
        at += len(line) - known
        if end > 2:
            self._chunk_line = b""
            return at, int(line.partition(b";")[0], 16)
        self._chunk_line = line
        return at, -1

    def _end_chunks(self, data: bytes, at: int) -> int:
        """The last chunk's line is there."""
        if data.startswith(b"\r\n", at):
            self.complete = True
            return at + 2
        self._fields = _Fields()
        self._parser = httptools.HttpResponseParser(self._fields)
        self._parser.feed_data(_CHUNKED_HEAD + b"0\r\n")
        self._fields.complete = False
        self._lines += b"\r\n"  # an empty line at once is an end, too
        self._in_trailers = True
        return at


def _find_end(before: bytearray, data: bytes, at: int) -> int:
    """Where in `data`, from `at` on, an END ends that may have begun `before`; or -1."""
    if before:
        tail = bytes(before[1 - len(END) :])
        seam = (tail + data[at : at + len(END) - 1]).find(END)
        if seam >= 0:
            return at + seam + len(END) - len(tail)
    found = data.find(END, at)
    return found + len(END) if found >= 0 else -1


def _parse(
    parser: httptools.HttpResponseParser, data: bytes, what: str, before: bytes | bytearray = b""
) -> None:
    try:
        parser.feed_data(data)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        if parser.get_status_code() == 101:
            raise BadReplyError("a reply changes the protocol (status 101)") from None
        raise BadReplyError(f"{what} is not valid ({error}): {_begin(before, data)}") from None


def _begin(before: bytes | bytearray, data: bytes) -> str:
    """The first bytes, for a message."""
    return repr((bytes(before[:_QUOTED_BYTES]) + data[:_QUOTED_BYTES])[:_QUOTED_BYTES])


@lru_cache(maxsize=1024)  # a third of the time that a small chunk takes
def _chunk_bytes(line: bytes) -> int:
    """The size that an ordinary chunk line says; -1 if it is not one."""
    ordinary = _CHUNK_LINE.fullmatch(line)
    return int(ordinary[1], 16) if ordinary else -1


def _tokens(value: bytes) -> list[bytes]:
    """The elements of a list, in lower case; empty ones do not count (RFC 9110, section 5.6.1)."""
    stripped = (token.strip(b" \t") for token in value.lower().split(b","))
    return [token for token in stripped if token]
