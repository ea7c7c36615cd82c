"""How a connection ends, and that its end costs no other connection anything."""

from __future__ import annotations

import random
import select
import socket
import time

import pytest

from servers.services.burst import ACK
from tests.conformance.conftest import PACKET_BYTES, PACKETS
from tests.conformance.server import (
    DEADLINE_S,
    Server,
    closed_by_peer,
    in_flight,
    read_exactly,
    read_to_end,
    reset,
)

BURST_BYTES = PACKETS * PACKET_BYTES
(ACK_BYTES,) = ACK


def acknowledged(sock: socket.socket, burst_bytes: int = BURST_BYTES) -> bool:
    """Send one burst on an open connection; is it answered?"""
    sock.sendall(bytes(burst_bytes))
    return read_exactly(sock, 32) == ACK_BYTES


def test_a_client_that_shuts_its_side_still_gets_its_acks_and_then_the_end(server: Server) -> None:
    with server.connect() as sock:
        sock.sendall(bytes(7 * BURST_BYTES))
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == 7 * ACK_BYTES
        server.rest()  # although the client's socket is still open


def test_a_client_that_shuts_its_side_within_a_burst_gets_the_end_alone(server: Server) -> None:
    before = server.rest()["replies"]
    with server.connect() as sock:
        sock.sendall(bytes(BURST_BYTES - 1))
        sock.shutdown(socket.SHUT_WR)
        assert read_to_end(sock) == b""
    assert server.rest()["replies"] == before


def test_an_orderly_end_is_no_error(server: Server) -> None:
    before = server.rest()["errors"]
    with server.connect():
        pass
    with server.connect() as sock:
        assert acknowledged(sock)
    assert server.rest()["errors"] == before


@pytest.mark.parametrize("sent", [0, 1, BURST_BYTES - 1, BURST_BYTES, 9 * BURST_BYTES + 5])
def test_a_reset_costs_its_own_connection_only(server: Server, sent: int) -> None:
    server.rest()
    with server.connect() as bystander:
        assert acknowledged(bystander)
        before = server.stats()
        for _ in range(10):
            victim = server.connect()
            victim.sendall(bytes(sent))
            reset(victim)
            assert acknowledged(bystander)
        accepted = before["connections"]["accepted"] + 10
        after = server.wait_for(
            lambda stats: (
                stats["connections"] == {"now": 1, "accepted": accepted, "refused": 0}
                and not in_flight(stats)
            )
        )
    failed = {kind for kind, n in after["errors"].items() if n > before["errors"][kind]}
    assert failed <= {"reset"}


def test_a_reset_that_the_server_has_seen_is_counted(server: Server) -> None:
    server.rest()
    before = server.stats()["errors"]["reset"]
    for _ in range(3):
        victim = server.connect()
        assert acknowledged(victim)  # so it was accepted, and is being read from
        reset(victim)
    assert server.rest()["errors"]["reset"] == before + 3


def test_clients_that_end_anyhow_at_any_moment_leave_nothing_behind(server: Server) -> None:
    chance = random.Random(1)
    server.rest()
    with server.connect() as bystander:
        assert acknowledged(bystander)
        threads = server.wait_for(lambda stats: stats["connections"]["now"] == 1)["threads"]
        descriptors = len(server.descriptors())  # perhaps with the last of the admin port's
        for _ in range(300):
            client = server.connect()
            for _ in range(chance.randrange(3)):
                client.sendall(bytes(chance.randrange(1, 20 * BURST_BYTES)))
            if chance.random() < 0.3:
                client.shutdown(socket.SHUT_WR)
            if chance.random() < 0.5:
                reset(client)
            else:
                client.close()
        server.wait_for(lambda stats: stats["connections"]["now"] == 1)
        server.wait_for(lambda stats: stats["threads"] == threads and not in_flight(stats))
        server.wait_for(lambda _: len(server.descriptors()) <= descriptors + 1)
        assert acknowledged(bystander)


def test_a_slow_reader_gets_everything(variant: tuple[str, ...]) -> None:
    # More ACKs than socket buffers and --max-unsent hold, read late and in small pieces.
    bursts = 100_000
    small = ("--packets", "1", "--packet-bytes", "1", "--max-unsent", "20000")
    with Server(*variant, *small) as server, server.connect(receive_buffer=4096) as sock:
        sock.setblocking(False)
        poll = select.poll()
        poll.register(sock, select.POLLIN | select.POLLOUT)
        left, received = bursts, bytearray()
        deadline_s = time.monotonic() + DEADLINE_S
        while len(received) < 32 * bursts:
            assert time.monotonic() < deadline_s
            ((_, events),) = poll.poll(DEADLINE_S * 1e3)
            if left and events & select.POLLOUT:
                left -= sock.send(bytes(min(left, 5000)))
                if not left:
                    poll.modify(sock, select.POLLIN)
            else:
                received += sock.recv(3000)
        assert received == ACK_BYTES * bursts
        stats = server.wait_for(lambda stats: stats["replies"] == bursts)
        assert stats["abandoned"] == sum(stats["errors"].values()) == 0


def test_a_peer_that_never_reads_cannot_grow_memory_and_is_closed(
    variant: tuple[str, ...],
) -> None:
    with (
        Server(
            *variant,
            "--packets",
            "1",
            "--packet-bytes",
            "1",
            "--max-unsent",
            "65536",
            "--receive-bytes",
            "16384",
            "--send-timeout",
            "1",
        ) as server,
        server.connect() as bystander,
        server.connect(receive_buffer=4096) as glutton,
    ):
        assert acknowledged(bystander, 1)
        most = before = server.rss_bytes()
        bursts = bytes(1 << 16)
        poll = select.poll()
        poll.register(glutton, select.POLLOUT)
        glutton.setblocking(False)
        deadline_s = time.monotonic() + DEADLINE_S
        try:
            while True:
                assert time.monotonic() < deadline_s, "the connection was not closed"
                if poll.poll(50):
                    glutton.send(bursts)
                assert acknowledged(bystander, 1)
                most = max(most, server.rss_bytes())
        except ConnectionError:
            pass
        stats = server.wait_for(lambda stats: stats["connections"]["now"] == 1)
        assert stats["errors"]["unread"] == 1
        assert stats["abandoned"] > 0
        assert in_flight(stats) == 0
        # 64 KB of replies wait, and the requests of one read; buffers and heap round it up.
        assert most - before < 24 << 20


def test_silence_ends_a_connection_and_talk_does_not(variant: tuple[str, ...]) -> None:
    with Server(
        *variant, "--packets", "1", "--packet-bytes", "2", "--idle-timeout", "0.5"
    ) as server:
        with server.connect() as silent, server.connect() as midway, server.connect() as busy:
            midway.sendall(b"1")
            poll = select.poll()
            poll.register(silent, select.POLLIN)
            poll.register(midway, select.POLLIN)
            ended = 0
            deadline_s = time.monotonic() + DEADLINE_S
            while ended < 2:
                assert time.monotonic() < deadline_s
                assert acknowledged(busy, 2)
                for descriptor, _ in poll.poll(20):
                    poll.unregister(descriptor)
                    ended += 1
            assert closed_by_peer(silent)
            assert closed_by_peer(midway)
            assert acknowledged(busy, 2)
            stats = server.wait_for(lambda stats: stats["connections"]["now"] == 1)
            assert stats["errors"]["idle"] == 2
        server.rest()
