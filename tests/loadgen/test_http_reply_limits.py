"""What replies may cost: memory that is given back, time in proportion to their bytes."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httptools
import pytest

from loadgen.http.reply import (
    MAX_CHUNK_LINE_BYTES,
    MAX_HEAD_BYTES,
    MAX_INTERIM_REPLIES,
    BadReplyError,
    Reply,
)

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

KINDS = {
    "length": OK + b"Content-Length: 4\r\n\r\nbody",
    "changing header": OK + b"X-Request-ID: %06d\r\nContent-Length: 4\r\n\r\nbody",
    "chunks": CHUNKED + b"4\r\nbody\r\n0\r\n\r\n",
    "chunks with trailers": CHUNKED + b"4;x=y\r\nbody\r\n0\r\nX: y\r\n\r\n",
    "until close": OK + b"\r\nbody",
    "HEAD": OK + b"Content-Length: 4\r\n\r\n",
    "interim": CONTINUE + OK + b"Content-Length: 4\r\n\r\nbody",
    "bad head": OK + b"X: a\n\n",
    "bad chunk": CHUNKED + b"x",
    "cut short": OK + b"Content-Le",
}

REPLIES = 100_000


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_a_reply_leaves_nothing_to_the_garbage_collector(kind: str, pieces: int) -> None:
    wire = KINDS[kind]

    def read(number: int) -> None:
        data = wire.replace(b"%06d", b"%06d" % number)
        cut = len(data) // pieces
        reply = Reply(head_only=kind == "HEAD")
        try:
            reply.feed(data[:cut])
            reply.feed(data[cut:])
        except BadReplyError:
            assert kind.startswith("bad")
        reply.end()
        assert reply.spare == 0

    with collector_off():
        read(0)
        before = sys.getallocatedblocks()
        for number in range(REPLIES):
            read(number)
        assert sys.getallocatedblocks() - before < 100
        assert gc.collect() == 0


def pieces_of(wire: bytes, size: int) -> list[bytes]:
    return [wire[at : at + size] for at in range(0, len(wire), size)]


def feed(reply: Reply, pieces: list[bytes]) -> None:
    for piece in pieces:
        reply.feed(piece)


def cost_s(pieces: list[bytes]) -> float:
    """CPU time, the best of two: a machine has other things to do."""
    best_s = float("inf")
    for _ in range(2):
        reply = Reply()
        began_s = time.thread_time()
        with suppress(BadReplyError):
            feed(reply, pieces)
        best_s = min(best_s, time.thread_time() - began_s)
    return best_s


def one_chunk(body: bytes) -> bytes:
    return CHUNKED + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


# Each for a size in bytes; the whole wire, and how long its pieces are.
SHAPES = {
    "a chunk of empty lines": (lambda size: one_chunk(b"\r\n" * (size // 2)), 1 << 20),
    "a chunk of last chunks": (lambda size: one_chunk(b"\r\n0\r\n\r\n" * (size // 7)), 1 << 20),
    "a chunk in tiny pieces": (lambda size: one_chunk(b"\r\n" * (size // 2)), 3),
    "tiny chunks": (lambda size: CHUNKED + b"1\r\na\r\n" * (size // 6), 1 << 20),
    "tiny chunks in tiny pieces": (lambda size: CHUNKED + b"1\r\na\r\n" * (size // 6), 4),
    "chunks with extensions": (lambda size: CHUNKED + b"1;a=b\r\na\r\n" * (size // 10), 1 << 20),
    "interim replies": (lambda size: CONTINUE * (size // len(CONTINUE)), 1 << 20),
    "spare bytes": (lambda size: KINDS["length"] * (size // len(KINDS["length"])), 1 << 20),
    "spare bytes in tiny pieces": (lambda size: KINDS["length"] + bytes(size), 4),
    "until close": (lambda size: OK + b"\r\n" + b"\r\n" * (size // 2), 3),
    "a length": (lambda size: OK + b"Content-Length: %d\r\n\r\n" % size + bytes(size), 3),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_cost_time_in_proportion_to_their_number(shape: str) -> None:
    """256 times as many; what is quadratic would cost thousands of times as much."""
    make, piece_bytes = SHAPES[shape]
    few, many = (cost_s(pieces_of(make(size), piece_bytes)) for size in (1 << 11, 1 << 19))
    assert many < 1500 * few + 0.005


@pytest.mark.parametrize(
    ("wire", "limit"),
    [
        (OK + b"X: " + b"x" * MAX_HEAD_BYTES, "head of a reply is longer than"),
        (OK + b"X: x\r\n" * (MAX_HEAD_BYTES // 6) + b"\r\n", "head of a reply is longer"),
        (CHUNKED + b"0\r\n" + b"X: x\r\n" * (MAX_HEAD_BYTES // 6 + 1), "trailer section"),
        (CHUNKED + b"1;" + b"x" * MAX_CHUNK_LINE_BYTES, "the line with a chunk's size is longer"),
        (CHUNKED + b"0" * MAX_CHUNK_LINE_BYTES + b"1\r\na\r\n", "the line with a chunk's size"),
        (CONTINUE * (MAX_INTERIM_REPLIES + 1) + OK + b"\r\n", "interim replies"),
    ],
    ids=["head", "fields", "trailers", "extensions", "zeros", "interim"],
)
@pytest.mark.parametrize("piece_bytes", [1, 1000, 1 << 20])
def test_nothing_goes_on_without_an_end(wire: bytes, limit: str, piece_bytes: int) -> None:
    with pytest.raises(BadReplyError, match=limit):
        feed(Reply(), pieces_of(wire, piece_bytes))


@pytest.mark.parametrize("piece_bytes", [1, 1000, 1 << 20])
def test_what_is_as_long_as_is_allowed_is_read(piece_bytes: int) -> None:
    start = CHUNKED[: -len(b"\r\n")] + b"X: "
    wire = (
        CONTINUE * MAX_INTERIM_REPLIES
        + start + b"x" * (MAX_HEAD_BYTES - len(start) - 4) + b"\r\n\r\n"
        + b"1;" + b"x" * (MAX_CHUNK_LINE_BYTES - 6) + b"\r\na\r\n"
        + b"0\r\nX: " + b"x" * (MAX_HEAD_BYTES - 9) + b"\r\n\r\n"
    )  # fmt: skip
    reply = Reply()
    feed(reply, pieces_of(wire, piece_bytes))
    assert (reply.complete, reply.body_bytes, reply.spare) == (True, 1, 0)


@pytest.mark.parametrize(
    "line", [b"5;a", b"5;a=b", b"5;a-b_c=1;d", b"005;x;y;z=9", b"A;" + b"n" * 99]
)
def test_ordinary_extensions_of_a_chunk_are_the_parsers_too(line: bytes) -> None:
    """They are read without the parser, so they must be what it takes."""
    size = int(line.partition(b";")[0], 16)
    wire = CHUNKED + line + b"\r\n" + b"x" * size + b"\r\n0\r\n\r\n"
    reply = Reply()
    reply.feed(wire)
    assert (reply.complete, reply.body_bytes) == (True, size)
    bodies: list[bytes] = []

    class Fields:
        def on_body(self, body: bytes) -> None:
            bodies.append(body)

    httptools.HttpResponseParser(Fields()).feed_data(wire)
    assert len(b"".join(bodies)) == size
