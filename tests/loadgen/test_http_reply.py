"""Replies from bytes: however they are cut, and whatever else may come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import httptools
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadgen.http.reply import BadReplyError, Reply

from .fault_server import HTTP2


@dataclass(frozen=True)
class Seen:
    """Everything that the engine asks of a reply."""

    complete: bool
    status: int
    body: bytes
    spare: int
    keep_alive: bool


def read(
    wire: bytes, cuts: list[int], *, head_only: bool = False, ended: bool = False
) -> Seen | str:
    """What a `Reply` makes of these pieces, or its complaint."""
    body: list[bytes] = []
    reply = Reply(head_only, body)
    places = [0, *sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]
    try:
        for begin, end in itertools.pairwise(places):
            if begin < end:
                reply.feed(wire[begin:end])
    except BadReplyError as error:
        return str(error)
    if ended:
        reply.end()
    assert reply.body_bytes == len(b"".join(body))
    return Seen(reply.complete, reply.status, b"".join(body), reply.spare, reply.keep_alive)


HEADERS = st.lists(st.sampled_from([b"Server: x", b"Date: now", b"X-Empty:", b"Vary: a, b"]))
CUTS = st.lists(st.integers(0, 1 << 16), max_size=12)
# Bodies that look like what surrounds them.
BODIES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.sampled_from([b"\r\n", b"0\r\n", b"HTTP/1.1 ", b"a"])).map(b"".join),
)


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, bool, bool, Seen]:
    """A reply on the wire, if it answers HEAD, if the connection ends with it, what it is."""
    framing = draw(st.sampled_from(["length", "chunks", "end", "none", "head"]))
    status = draw(st.sampled_from([204, 304])) if framing == "none" else 200
    body = draw(BODIES)
    headers = draw(HEADERS)
    keep_alive = framing != "end"
    if keep_alive and draw(st.booleans()):
        headers.append(b"Connection: close")
        keep_alive = False
    rest = body
    if framing in ("length", "head"):
        headers.insert(draw(st.integers(0, len(headers))), b"content-length:  %d" % len(body))
    if framing == "chunks":
        headers.append(b"Transfer-Encoding: chunked")
        rest = draw(chunked(body))
    if framing in ("none", "head"):
        rest = body = b""
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
    head = b"\r\n".join([b"HTTP/1.1 %d Some words" % status, *headers, b"", b""])
    spare = b"" if framing == "end" else draw(st.sampled_from([b"", b"x", b"HTTP/1.1 200 OK\r\n\r\n"]))  # fmt: skip  # noqa: E501
    return (
        interim + head + rest + spare, framing == "head", framing == "end",
        Seen(True, status, body, len(spare), keep_alive),
    )  # fmt: skip


@st.composite
def chunked(draw: st.DrawFn, body: bytes) -> bytes:
    wire = b""
    while body:
        size = draw(st.integers(1, len(body)))
        extension = draw(st.sampled_from([b"", b";name=value"]))
        wire += b"%x%s\r\n%s\r\n" % (size, extension, body[:size])
        body = body[size:]
    return wire + b"0\r\n" + draw(st.sampled_from([b"", b"Trailer: x\r\n"])) + b"\r\n"


@settings(max_examples=200, deadline=None)
@given(replies(), CUTS)
def test_a_reply_is_the_same_however_it_is_cut(
    reply: tuple[bytes, bool, bool, Seen], cuts: list[int]
) -> None:
    wire, head_only, ended, expected = reply
    assert read(wire, cuts, head_only=head_only, ended=ended) == expected
    assert read(wire, list(range(len(wire))), head_only=head_only, ended=ended) == expected


@settings(max_examples=60, deadline=None)
@given(replies())
@example(
    (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        False, False, Seen(True, 200, b"", 19, True),
    )
)  # fmt: skip
def test_a_reply_may_be_cut_in_two_anywhere(reply: tuple[bytes, bool, bool, Seen]) -> None:
    wire, head_only, ended, expected = reply
    for cut in range(1, len(wire)):
        assert read(wire, [cut], head_only=head_only, ended=ended) == expected


@settings(max_examples=200, deadline=None)
@given(replies(), st.integers(0, 1 << 16))
def test_a_reply_that_ends_early_is_not_complete(
    reply: tuple[bytes, bool, bool, Seen], cut: int
) -> None:
    wire, head_only, ended, expected = reply
    whole = len(wire) - expected.spare
    found = read(wire[: cut % whole], [], head_only=head_only, ended=True)
    assert isinstance(found, Seen)
    if not ended:  # else nobody can know
        assert not found.complete


@settings(max_examples=250, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=300),
        st.binary(max_size=300).map(lambda data: b"HTTP/1.1 200 OK\r\n" + data),
        st.binary(max_size=60).map(
            lambda data: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data
        ),
        st.binary(max_size=30).map(
            lambda data: b"HTTP/1.1 200 OK\r\nContent-Length: " + data + b"\r\n\r\n0123456789"
        ),
    ),
    CUTS,
)
@example(HTTP2, [])
@example(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n", [])
@example(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n", [])
def test_garbage_is_a_bad_reply_or_none_yet(data: bytes, cuts: list[int]) -> None:
    found = read(data, cuts, ended=True)
    if isinstance(found, str):
        assert found
        assert found.isprintable()  # one line, for people


@settings(max_examples=200, deadline=None)
@given(replies(), st.integers(0, 1 << 16), st.binary(min_size=1, max_size=3), CUTS)
def test_a_damaged_reply_is_read_or_refused(
    reply: tuple[bytes, bool, bool, Seen], at: int, damage: bytes, cuts: list[int]
) -> None:
    wire, head_only, _, _ = reply
    at %= len(wire)
    read(wire[:at] + damage + wire[at + len(damage) :], cuts, head_only=head_only, ended=True)


@pytest.mark.parametrize(
    ("head", "keep_alive"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: keep-alive\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: Upgrade, Keep-Alive\r\nUpgrade: h2c\r\n", True),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_what_a_reply_says_of_its_connection(head: bytes, keep_alive: bool) -> None:
    expected = Seen(True, 200, b"body", 0, keep_alive)
    assert read(head + b"Content-Length: 4\r\n\r\nbody", []) == expected


@pytest.mark.parametrize(
    ("fields", "keep_alive"),
    [
        (b"Connection:\tclose ,\tx\r\n", False),
        (b"Connection: x,CLOSE\t\r\n", False),
        (b"Connection: x\r\nConnection: y, close\r\n", False),
        (b"Connection: cl\r\nConnection: ose\r\n", True),
        (b"Connection: not-close, closed, close-notify\r\n", True),
        (b"Connection: close;x\r\n", True),
        (b"Connection:\r\n", True),
    ],
)
def test_connection_is_a_list_of_whole_words(fields: bytes, keep_alive: bool) -> None:
    wire = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 4\r\n\r\nbody"
    assert read(wire, []) == Seen(True, 200, b"body", 0, keep_alive)


@pytest.mark.parametrize("option", [b"not-keep-alive", b"keep-alive-x", b"keep-alive, close"])
def test_a_word_that_contains_keep_alive_does_not_keep_a_connection(option: bytes) -> None:
    wire = b"HTTP/1.0 200 OK\r\nConnection: " + option + b"\r\nContent-Length: 4\r\n\r\nbody"
    assert read(wire, []) == Seen(True, 200, b"body", 0, False)


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: chunked \r\n",
        b"Transfer-Encoding: chunked\t\r\n",
        b"Transfer-Encoding:chunked\r\n",
        b"Transfer-Encoding: Chunked\r\n",
        b"Transfer-Encoding: gzip\t,\tchunked\r\n",
        b"Transfer-Encoding: gzip,chunked , \r\n",
        b"Transfer-Encoding: gzip\r\nServer: x\r\nTransfer-Encoding: chunked\r\n",
    ],
)
def test_a_reply_whose_last_coding_is_chunked_comes_in_chunks(fields: bytes) -> None:
    wire = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n4\r\nbody\r\n0\r\n\r\n"
    for cut in range(len(wire)):
        assert read(wire, [cut]) == Seen(True, 200, b"body", 0, True)


@pytest.mark.parametrize(
    "fields",
    [
        b"Transfer-Encoding: notchunked\r\n",
        b"Transfer-Encoding: x-chunked\r\n",
        b"Transfer-Encoding: gzip chunked\r\n",
        b"Transfer-Encoding: chunked;q=1\r\n",
        b"Transfer-Encoding: chunked, gzip\r\n",
        b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n",
    ],
)
def test_a_reply_whose_last_coding_is_another_ends_with_the_connection(fields: bytes) -> None:
    body = b"4\r\nbody\r\n0\r\n\r\n"
    wire = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n" + body
    assert read(wire, []) == Seen(False, 200, body, 0, False)
    assert read(wire, [], ended=True) == Seen(True, 200, body, 0, False)


BAD_HEADS = {
    "bare line feeds": b"HTTP/1.1 200 OK\nContent-Length: 4\n\nbody",
    "a bare line feed after a field": b"HTTP/1.1 200 OK\r\nContent-Length: 4\n",
    "a bare line feed at the end": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\nbody",
    "a folded line": b"HTTP/1.1 200 OK\r\nX: a\r\n b",
    "a folded line with a tab": b"HTTP/1.1 200 OK\r\nX: a\r\n\tb",
    "a line of blanks": b"HTTP/1.1 200 OK\r\nX: a\r\n \r\n",
    "a carriage return alone": b"HTTP/1.1 200 OK\r\nX: a\rb",
    "NUL in a value": b"HTTP/1.1 200 OK\r\nX: a\0",
    "NUL in a name": b"HTTP/1.1 200 OK\r\nX\0",
    "no colon": b"HTTP/1.1 200 OK\r\nno colon\r\n",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\nX : a",
    "a blank before the first field": b"HTTP/1.1 200 OK\r\n X: a",
    "no name": b"HTTP/1.1 200 OK\r\n: a",
    "no status": b"HTTP/1.1 OK\r\n",
    "a status of two digits": b"HTTP/1.1 20\r\n",
    "status 000": b"HTTP/1.1 000 X\r\n\r\n",
    "status 099": b"HTTP/1.1 099 X\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 X\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nContent-Length: 4\r\n",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n",
    "bare line feeds in an interim reply": b"HTTP/1.1 100 Continue\n\n",
}
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BAD_CHUNKS = {
    "no size": b"\r\n",
    "a size that is not a number": b"x",
    "a negative size": b"-1",
    "a size with a prefix": b"0x4",
    "a size that is too large": b"1" + b"0" * 16,
    "a bare line feed after a size": b"4\n",
    "a carriage return alone after a size": b"4\rb",
    "a blank after a size": b"4 ",
    "a bad extension": b"4; ",
    "too long a chunk": b"4\r\nbodyx",
    "a bare line feed after a chunk": b"4\r\nbody\n",
    "a carriage return alone after a chunk": b"4\r\nbody\rx",
    "an empty line between chunks": b"4\r\nbody\r\n\r",
    "bare line feeds after a trailer": b"0\r\nX: y\n",
    "a bare line feed after the last chunk": b"0\r\n\n",
    "a folded trailer": b"0\r\nX: y\r\n z",
    "a trailer without colon": b"0\r\nno colon\r\n",
    "a length as a trailer": b"0\r\nContent-Length: 4\r\n",
}
BAD = BAD_HEADS | {name: CHUNKED + chunks for name, chunks in BAD_CHUNKS.items()}


@pytest.mark.parametrize("wire", BAD.values(), ids=BAD.keys())
def test_what_is_not_valid_is_refused_at_once_and_not_waited_for(wire: bytes) -> None:
    """The wires end where it is known; a server that says no more must not look overloaded."""
    for cuts in ([], *([cut] for cut in range(1, len(wire))), list(range(len(wire)))):
        found = read(wire, cuts)
        assert isinstance(found, str), (found, cuts)
        assert found.isprintable()


class Judged:
    """A reply that the parser frames by itself."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.complete = False

    def on_body(self, body: bytes) -> None:
        if not self.complete:
            self.body += body

    def on_message_complete(self) -> None:
        self.complete = self.complete or self.parser.get_status_code() >= 200


def judge(wire: bytes) -> tuple[bool, bytes] | str:
    judged = Judged()
    try:
        judged.parser.feed_data(wire)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
        if not judged.complete:  # else it is about what comes after the reply
            return str(error)
    return judged.complete, judged.body


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        replies().filter(lambda reply: not reply[1]).map(lambda reply: reply[0]),
        st.lists(
            st.sampled_from([
                b"0", b"1", b"a", b"2;x=y", b"\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b";", b"=",
                b" ", b"\t", b'"', b"f" * 16, b"X: y\r\n", b"\0", b"1\r\n0\r\n", b"0\r\n",
            ]),
            max_size=12,
        ).map(lambda parts: CHUNKED + b"".join(parts)),
        st.lists(
            st.sampled_from([
                b"X: y\r\n", b"\r\n", b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"\0", b"x",
                b"Content-Length: 1\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"1\r\n0\r\n",
                b"Connection: close\r\n", b"0\r\n",
            ]),
            max_size=12,
        ).map(lambda parts: b"HTTP/1.1 200 OK\r\n" + b"".join(parts)),
    ),
    CUTS,
)  # fmt: skip
def test_the_parser_would_frame_a_reply_in_the_same_way(wire: bytes, cuts: list[int]) -> None:
    expected, found = judge(wire), read(wire, cuts)
    if isinstance(expected, str):
        assert isinstance(found, str), (expected, found)
    else:
        assert isinstance(found, Seen), found
        assert (found.complete, found.body) == expected


def test_a_coding_other_than_chunks_ends_with_the_connection() -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzipped"
    expected = Seen(True, 200, b"zipped", 0, False)
    assert read(wire, [50], ended=True) == expected
    assert read(wire, [50]) == replace(expected, complete=False)


def test_a_reply_without_a_list_for_its_body_drops_it() -> None:
    reply = Reply()
    reply.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo")
    reply.feed(b"dy")
    assert (reply.complete, reply.body_bytes) == (True, 4)
