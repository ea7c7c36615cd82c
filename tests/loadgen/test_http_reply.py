"""Replies from bytes: however they are cut, and whatever else may come."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from loadgen.http.reply import MAX_HEAD_BYTES, BadReplyError, Reply

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


def test_a_coding_other_than_chunks_ends_with_the_connection() -> None:
    wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nzipped"
    expected = Seen(True, 200, b"zipped", 0, False)
    assert read(wire, [50], ended=True) == expected
    assert read(wire, [50]) == replace(expected, complete=False)


def test_a_head_without_end_is_refused() -> None:
    reply = Reply()
    reply.feed(b"HTTP/1.1 200 OK\r\n")
    reply.feed(b"x" * (MAX_HEAD_BYTES - 100))
    with pytest.raises(BadReplyError, match="longer than"):
        reply.feed(b"x" * 100)


def test_a_reply_without_a_list_for_its_body_drops_it() -> None:
    reply = Reply()
    reply.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbo")
    reply.feed(b"dy")
    assert (reply.complete, reply.body_bytes) == (True, 4)
