"""New connections: the limit on them, and what is counted when one cannot be had."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from servers.acceptor import Acceptor, refuse
from servers.counters import Counters
from servers.listener import bind


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0, 16) as found:
        yield found


def connect(listener: socket.socket, count: int, stack: ExitStack) -> list[socket.socket]:
    address = listener.getsockname()
    return [stack.enter_context(socket.create_connection(address)) for _ in range(count)]


def test_each_connection_is_counted_before_the_next_is_accepted(listener: socket.socket) -> None:
    counters = Counters()
    kept: list[socket.socket] = []
    acceptor = Acceptor(listener, lambda: len(kept) < 2)
    with ExitStack() as stack:
        clients = connect(listener, 5, stack)
        for sock in acceptor.take(10, counters):
            kept.append(stack.enter_context(sock))  # noqa: PERF401 (before the next is accepted)
        assert (len(kept), counters.refused) == (2, 3)
        assert [client.recv(1) for client in clients[2:]] == [b"", b"", b""]
    assert not acceptor.failed


def test_refused_ones_count_as_attempts_so_that_a_flood_holds_up_nobody(
    listener: socket.socket,
) -> None:
    counters = Counters()
    acceptor = Acceptor(listener, lambda: False)
    with ExitStack() as stack:
        connect(listener, 5, stack)
        assert list(acceptor.take(3, counters)) == []
        assert counters.refused == 3


def test_a_failed_accept_is_counted_once_and_ends_the_turn(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_descriptors(listener: socket.socket) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("servers.acceptor.accept", out_of_descriptors)
    counters = Counters()
    acceptor = Acceptor(listener, lambda: True)
    assert list(acceptor.take(10, counters)) == []
    assert (acceptor.failed, counters.errors["accept"], counters.refused) == (True, 1, 0)


def test_a_listener_that_is_being_closed_has_not_failed(listener: socket.socket) -> None:
    counters = Counters()
    acceptor = Acceptor(listener, lambda: True)
    acceptor.closing = True
    listener.close()
    assert list(acceptor.take(10, counters)) == []
    assert (acceptor.failed, counters.errors["accept"]) == (False, 0)


@pytest.mark.parametrize("failed", [False, True])
def test_one_that_cannot_be_served_is_closed_and_counted(failed: bool) -> None:
    counters = Counters()
    ours, theirs = socket.socketpair()
    with theirs:
        refuse(ours, counters, failed)
        assert theirs.recv(1) == b""
    assert (counters.refused, counters.errors["accept"]) == (1, int(failed))
