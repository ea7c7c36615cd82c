"""HTTP/1.1 replies, from bytes to a verdict; the grammar is llhttp's (`httptools`).

A load generator sees the same few heads again and again: they differ by the
request and, once a second, by their Date.  So the engine remembers under the
very bytes of a head what it said: how long the reply is and whether that is
what was asked for.  Its hot loop looks a head up and compares two lengths.
Everything else (a head not seen before, a body in chunks or one that ends with
the connection, HEAD, 1xx) goes through a `Reply`, which feeds the parser
whatever arrives.

Nothing here knows a socket or a clock.
"""

from __future__ import annotations

import httptools

END = b"\r\n\r\n"

START = b"HTTP/1."

MOST_HEAD_BYTES = 64 * 1024
"""A head that does not end by then is no reply."""


class BadReplyError(Exception):
    """What came is no HTTP/1.1 reply.  One line."""


class Reply:
    """One reply that is coming in, in whatever pieces.

    `complete` becomes True with its last byte; `spare` counts bytes beyond it.
    The body is dropped, unless there is a list `body` for its pieces.
    """

    __slots__ = (
        "_body", "_chunked", "_connection", "_no_body", "_parser", "_tail", "_until_close",
        "body_bytes", "complete", "head_bytes", "keep_alive", "length", "spare", "status",
    )  # fmt: skip

    def __init__(self, head_only: bool = False, body: list[bytes] | None = None) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._no_body = head_only
        self._body = body
        self.length = -1
        self._chunked = False
        self._tail = b""  # of the chunks: an end may begin in one piece and end in the next
        self._connection = b""
        self._until_close = False
        self.head_bytes = bytearray()
        self.status = 0
        self.keep_alive = False
        self.body_bytes = 0
        self.complete = False
        self.spare = 0

    def feed(self, data: bytes) -> None:
        """Take in what arrived.  Raises BadReplyError."""
        while data and not self.complete:
            if not self.status:
                data = self._feed_head(data)
            elif self.length >= 0:
                taken = min(len(data), self.length - self.body_bytes)
                self._take(data[:taken])
                self.complete = self.body_bytes == self.length
                data = data[taken:]
            elif self._until_close:
                self._take(data)
                return
            else:
                data = self._feed_chunks(data)
        self.spare += len(data)

    def end(self) -> bool:
        """The connection ended; was the reply whole by that?"""
        if self._until_close and not self.complete:
            self.complete = True
        return self.complete

    def _take(self, piece: bytes) -> None:
        self.body_bytes += len(piece)
        if self._body is not None:
            self._body.append(piece)

    @property
    def begun(self) -> bool:
        return bool(self.head_bytes) or bool(self.status)

    def _feed_head(self, data: bytes) -> bytes:
        """Up to the end of the head; returns what follows it."""
        before = len(self.head_bytes)
        self.head_bytes += data
        if not self.head_bytes.startswith(START[: len(self.head_bytes)]):
            raise BadReplyError(f"it does not begin as HTTP/1.1: {bytes(self.head_bytes[:24])!r}")
        end = self.head_bytes.find(END, max(0, before - len(END)))
        if end < 0:
            if len(self.head_bytes) > MOST_HEAD_BYTES:
                raise BadReplyError(f"its head is longer than {MOST_HEAD_BYTES} bytes")
            return b""
        rest = bytes(self.head_bytes[end + len(END) :])
        del self.head_bytes[end + len(END) :]
        self._parse(bytes(self.head_bytes))
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue, 103 Early Hints: the reply is still to come
            self.__init__(self._no_body, self._body)  # type: ignore[misc]
            return rest
        self.status = status
        # Not should_keep_alive(): it takes a reply to HEAD for one that the end completes.
        lasts = self._parser.get_http_version() != "1.0" or b"keep-alive" in self._connection
        self.keep_alive = lasts and b"close" not in self._connection
        if self._no_body or status in (204, 304):
            self.complete = True
        elif self._chunked:
            self.length = -1
        elif self.length == 0:
            self.complete = True
        elif self.length < 0:
            self._until_close = True
            self.keep_alive = False
        return rest

    def _feed_chunks(self, data: bytes) -> bytes:
        """The parser frames the chunks; bytes beyond the last are looked for afterwards.

        It has no way to tell how much of a piece it used, so a piece is cut
        where a last chunk may end.
        """
        while data and not self.complete:
            begun = len(self._tail)
            found = (self._tail + data[: len(END)]).find(END)
            if found < 0:
                found, begun = data.find(END), 0
            cut = found + len(END) - begun if found >= 0 else len(data)
            piece, data = data[:cut], data[cut:]
            self._parse(piece)
            self._tail = (self._tail + piece)[-len(END) + 1 :]
        return data

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            raise BadReplyError("it wants to change the protocol (Upgrade)") from None
        except httptools.HttpParserError as error:
            raise BadReplyError(f"it is no HTTP/1.1 ({error}): {bytes(data[:24])!r}") from None

    # Called by the parser

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"content-length":
                self.length = int(value)  # the parser has seen that it is a number
            case b"transfer-encoding":
                self._chunked = value.lower().endswith(b"chunked")
            case b"connection":
                self._connection += value.lower()

    def on_body(self, body: bytes) -> None:
        if self.status:  # of the head's own call nothing is counted: no body was given to it
            self._take(body)

    def on_message_complete(self) -> None:
        if self.status:
            self.complete = True
