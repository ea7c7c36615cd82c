"""Sockets as every architecture gets them."""

from __future__ import annotations

import socket
import time

import pytest

from servers.listener import (
    RESERVED_DESCRIPTORS,
    accept,
    bind,
    connection_limit,
    set_kernel_timeouts,
)
from servers.options import UsageError

DEADLINE_S = 30.0


def accepted(listener: socket.socket) -> socket.socket:
    deadline_s = time.monotonic() + DEADLINE_S
    while (sock := accept(listener)) is None:
        assert time.monotonic() < deadline_s
    return sock


def test_accepted_sockets_send_at_once() -> None:
    with bind("127.0.0.1", 0, 5) as listener:
        client = socket.create_connection(listener.getsockname())
        with client, accepted(listener) as sock:
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.gettimeout() is None


def test_nobody_to_accept_is_no_error() -> None:
    with bind("127.0.0.1", 0, 5) as listener:
        assert accept(listener) is None


def test_a_port_can_be_had_again_while_its_old_connections_fade() -> None:
    with bind("127.0.0.1", 0, 5) as listener:
        address = listener.getsockname()
        client = socket.create_connection(address)
        accepted(listener).close()  # we close first, so the port is in TIME_WAIT
        client.close()
    bind(*address, 5).close()


@pytest.mark.parametrize("seconds", [0.01, 0.5, 1.0, 2.25])
def test_a_time_out_is_never_none_by_rounding(seconds: float) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        set_kernel_timeouts(ours, 0.01, seconds)
        with pytest.raises(BlockingIOError):
            ours.recv(1)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) != bytes(16)


def test_as_many_connections_as_descriptors_allow_and_no_more() -> None:
    assert connection_limit(None, 1000, "the limit", "raise it") == 1000 - RESERVED_DESCRIPTORS
    assert connection_limit(None, RESERVED_DESCRIPTORS + 1, "the limit", "raise it") == 1
    with pytest.raises(UsageError, match="the limit is 10; raise it"):
        connection_limit(None, 10, "the limit", "raise it")
    assert connection_limit(960, 1000, "the limit", "raise it") == 960
    with pytest.raises(UsageError, match="needs 1001 descriptors, but the limit is 1000; raise it"):
        connection_limit(961, 1000, "the limit", "raise it")
