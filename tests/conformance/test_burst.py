"""The ACK contract: a burst, however it is cut up, is answered by one ACK of 32 bytes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from servers.services.burst import ACK
from tests.conformance.conftest import PACKET_BYTES, PACKETS
from tests.conformance.server import Server, Stats, read_exactly, read_to_end

BURST_BYTES = PACKETS * PACKET_BYTES
(ACK_BYTES,) = ACK


def moved(before: Stats, after: Stats) -> dict[str, Any]:
    return {
        key: after[key] - before[key] for key in ("bytes_in", "bytes_out", "requests", "replies")
    }


def test_an_ack_is_32_bytes() -> None:
    assert len(ACK_BYTES) == 32


@settings(max_examples=20, deadline=None)
@given(chunks=st.lists(st.integers(1, 3 * BURST_BYTES), min_size=1, max_size=12))
def test_any_chunking_gets_one_ack_a_burst(server: Server, chunks: list[int]) -> None:
    with server.connect() as sock:
        for size in chunks:
            sock.sendall(bytes(size))
        sock.shutdown(1)
        assert read_to_end(sock) == ACK_BYTES * (sum(chunks) // BURST_BYTES)


@settings(max_examples=10, deadline=None)
@given(cuts=st.lists(st.integers(1, BURST_BYTES - 1), max_size=4, unique=True))
def test_the_ack_comes_after_the_last_byte_and_not_before(server: Server, cuts: list[int]) -> None:
    with server.connect() as sock:
        for _ in range(3):
            edges = [0, *sorted(cuts), BURST_BYTES - 1]
            for start, end in pairwise(edges):
                sock.sendall(bytes(end - start))
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)
            sock.settimeout(10)
            sock.sendall(b"!")
            assert read_exactly(sock, 32) == ACK_BYTES


def test_pipelined_bursts_get_all_their_acks(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(bytes(BURST_BYTES * 5000))
        assert read_exactly(sock, 32 * 5000) == ACK_BYTES * 5000


def test_bytes_and_requests_are_counted_exactly(server: Server) -> None:
    before = server.rest()
    with server.clients(5) as socks:
        for number, sock in enumerate(socks):
            sock.sendall(bytes(BURST_BYTES * number + 17))
            assert read_exactly(sock, 32 * number) == ACK_BYTES * number
    bursts = sum(range(5))
    assert moved(before, server.rest()) == {
        "bytes_in": bursts * BURST_BYTES + 5 * 17,
        "bytes_out": bursts * 32,
        "requests": bursts,
        "replies": bursts,
    }


@pytest.mark.parametrize("number", [1, 100, 2000])
def test_connections_at_once_are_all_served_and_counted(
    server: Server, variant: tuple[str, ...], number: int
) -> None:
    if "select" in variant:
        number = min(number, 900)  # what select() can watch, and some room
    before = server.rest()["connections"]
    with server.clients(number) as socks:
        for _ in range(2):
            for sock in socks:
                sock.sendall(bytes(BURST_BYTES))
            assert all(read_exactly(sock, 32) == ACK_BYTES for sock in socks)
        during = server.stats()["connections"]
        assert during["now"] == number
        assert during["accepted"] - before["accepted"] == number
    after = server.rest()["connections"]
    assert after["accepted"] - before["accepted"] == number
    assert after["refused"] == before["refused"]


def test_a_burst_of_the_papers_size_is_acknowledged_once(variant: tuple[str, ...]) -> None:
    with Server(*variant) as server, server.connect() as sock:
        packet = bytes(8192)
        for _ in range(1000):
            sock.sendall(packet)
        assert read_exactly(sock, 32) == ACK_BYTES
        server.wait_for(lambda stats: (stats["bytes_in"], stats["bytes_out"]) == (8_192_000, 32))
