"""Sockets that are full: given back when they take more, and when their peer takes nothing."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from servers.full_sockets import FullSockets


@contextmanager
def full_socket() -> Iterator[tuple[socket.socket, socket.socket]]:
    """One that takes no more, and its peer."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        with peer, listener.accept()[0] as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
            sock.setblocking(False)
            while select.select([], [sock], [], 0.05)[1]:
                sock.send(bytes(1 << 16))
            yield sock, peer


def test_it_is_given_back_once_when_its_peer_has_read() -> None:
    full: FullSockets[str] = FullSockets(60)
    with full_socket() as (sock, peer):
        full.park(sock, "it")
        assert full.writable() == []
        peer.setblocking(False)
        while not select.select([full], [], [], 0)[0]:
            if select.select([peer], [], [], 0.01)[0]:
                peer.recv(1 << 20)
        assert full.writable() == ["it"]
        assert full.writable() == full.overdue(time.monotonic_ns() + 10**12) == []
        full.park(sock, "it again")
        assert full.writable() == ["it again"]


def test_it_is_given_back_when_its_peer_has_gone() -> None:
    full: FullSockets[str] = FullSockets(60)
    with full_socket() as (sock, peer):
        full.park(sock, "it")
        peer.close()  # with unread bytes: a reset
        assert select.select([full], [], [], 30)[0]
        assert full.writable() == ["it"]


def test_a_peer_that_takes_nothing_for_the_whole_time_out_is_overdue() -> None:
    full: FullSockets[str] = FullSockets(60)
    with full_socket() as (sock, _):
        full.park(sock, "it")
        now_ns = time.monotonic_ns()
        assert full.overdue(now_ns) == []
        assert full.overdue(now_ns + 61 * 10**9) == ["it"]
        assert full.overdue(now_ns + 200 * 10**9) == full.writable() == []
