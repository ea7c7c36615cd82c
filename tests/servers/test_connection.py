"""A connection's outbox: replies leave whole and in order, however little the socket takes."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.connection import READABLE, WRITABLE, Connection, unacknowledged
from servers.counters import Counters
from servers.listener import ServerOptions
from servers.service import Request
from servers.services.burst import Burst, BurstOptions

OPTIONS = ServerOptions(idle_timeout_s=10, send_timeout_s=5)
SECOND_NS = 1_000_000_000


def connection_pair() -> tuple[Connection, socket.socket]:
    """A connection whose socket takes little at a time, and its peer."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the kernel makes of it what it can
    theirs.setblocking(False)
    service = Burst(BurstOptions())
    return Connection(ours, service.session(), 0), theirs


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    connection, peer = connection_pair()
    with connection.sock, peer:
        yield connection, peer


@settings(max_examples=40, deadline=None)
@given(
    replies=st.lists(st.lists(st.integers(0, 9000), max_size=90).map(tuple), max_size=5),
    reads=st.integers(1, 5000),
)
def test_replies_leave_whole_and_in_order(replies: list[tuple[int, ...]], reads: int) -> None:
    connection, peer = connection_pair()
    counters = Counters()
    expected = bytearray()
    received = bytearray()
    with connection.sock, peer:
        for reply in replies:
            buffers = tuple(bytes([len(expected) % 251]) * size for size in reply)
            expected += b"".join(buffers)
            connection.post(buffers)
            connection.flush(counters)
            assert connection.unsent == sum(map(len, connection.outbox))
            assert counters.bytes_out + connection.unsent == len(expected)
        while len(received) < len(expected):
            received += peer.recv(reads)
            connection.flush(counters)
    assert received == expected
    assert not connection.outbox
    assert counters.bytes_out == len(expected)


def test_it_watches_for_room_while_something_waits(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, _ = pair
    assert connection.wanted(100) == READABLE
    connection.post((bytes(1 << 20),))
    connection.flush(Counters())
    assert connection.wanted(1 << 20) == READABLE | WRITABLE
    assert connection.wanted(100) == WRITABLE  # too much waits: its requests are not read
    connection.half_closed = True
    assert connection.wanted(1 << 20) == WRITABLE


def test_a_peer_that_has_gone_is_an_error(pair: tuple[Connection, socket.socket]) -> None:
    connection, peer = pair
    peer.close()
    connection.post((b"reply",))
    with pytest.raises(OSError, match="Broken pipe"):
        connection.flush(Counters())


def test_silence_is_idle_and_a_waiting_reply_is_unread(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, _ = pair
    assert connection.overdue(0, OPTIONS) is None
    assert connection.overdue(9 * SECOND_NS, OPTIONS) is None
    assert connection.overdue(11 * SECOND_NS, OPTIONS) == "idle"
    connection.held = iter(())
    assert connection.overdue(4 * SECOND_NS, OPTIONS) is None
    assert connection.overdue(6 * SECOND_NS, OPTIONS) == "unread"
    connection.held = None
    connection.post((bytes(1 << 20),))
    connection.flush(Counters())  # bytes moved
    assert connection.overdue(11 * SECOND_NS, OPTIONS) is None
    assert connection.overdue(12 * SECOND_NS, OPTIONS) is None
    assert connection.overdue(17 * SECOND_NS, OPTIONS) == "unread"


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        return listener.accept()[0], theirs


def test_what_the_peer_takes_out_of_the_kernels_buffer_is_progress_too() -> None:
    # So much is in that buffer that the poller does not call it writable for long.
    ours, theirs = tcp_pair()
    with ours, theirs:
        connection = Connection(ours, Burst(BurstOptions()).session(), 0)
        connection.post((bytes(64 << 20),))
        connection.flush(Counters())
        assert connection.outbox
        assert connection.overdue(0, OPTIONS) is None  # bytes moved
        now_ns = SECOND_NS
        assert connection.overdue(now_ns, OPTIONS) is None
        for _ in range(3):
            waiting = unacknowledged(ours)
            while unacknowledged(ours) == waiting:
                theirs.recv(1 << 16)
            now_ns += 6 * SECOND_NS
            assert connection.overdue(now_ns, OPTIONS) is None
        settled = -1  # what was read last may still be on its way to be acknowledged
        while settled != connection.unacknowledged:
            settled = connection.unacknowledged
            now_ns += 6 * SECOND_NS
            ending = connection.overdue(now_ns, OPTIONS)
        assert ending == "unread"


def test_a_closed_socket_has_nothing_unacknowledged() -> None:
    ours, theirs = socket.socketpair()
    ours.close()
    theirs.close()
    assert unacknowledged(ours) == 0


@settings(max_examples=40, deadline=None)
@given(
    replies=st.lists(st.integers(0, 30_000), min_size=1, max_size=12),
    held=st.none() | st.integers(0, 5),
    reads=st.integers(0, 100_000),
)
def test_a_reply_counts_when_the_whole_of_it_is_sent_and_the_others_are_abandoned(
    replies: list[int], held: int | None, reads: int
) -> None:
    connection, peer = connection_pair()
    counters = Counters()
    with connection.sock, peer:
        for size in replies:
            connection.post((bytes(size),))
            connection.flush(counters)
        while reads and connection.outbox:
            reads -= len(peer.recv(min(reads, 1000)))
            connection.flush(counters)
        if held is not None:
            connection.held = iter([Request(lambda request: None)] * held)
    ends = list(accumulate(replies))
    assert counters.replies == sum(end <= counters.bytes_out for end in ends)
    assert connection.abandon() == len(replies) - counters.replies + (held or 0)
    assert connection.abandon() == 0


def test_a_finished_connection_lingers_for_a_second_whatever_it_still_says(
    pair: tuple[Connection, socket.socket],
) -> None:
    connection, peer = pair
    connection.finish(0)
    assert peer.recv(1) == b""
    connection.active = True
    assert connection.overdue(SECOND_NS, OPTIONS) is None
    assert connection.overdue(SECOND_NS + 1, OPTIONS) == "linger"
