"""What happens when there are too many connections, descriptors, threads or events."""

from __future__ import annotations

import resource
import select
import threading
from itertools import count

import pytest

from servers.services.burst import ACK
from tests.conformance.conftest import PACKET_BYTES, PACKETS
from tests.conformance.server import Server, closed_by_peer, read_exactly

BURST_BYTES = PACKETS * PACKET_BYTES
BURST = ("--packets", str(PACKETS), "--packet-bytes", str(PACKET_BYTES))
(ACK_BYTES,) = ACK

TURNS = 50
"""Bursts of each connection while accept() fails."""


def test_connections_over_the_maximum_are_closed_and_their_places_can_be_had_again(
    variant: tuple[str, ...],
) -> None:
    with Server(*variant, *BURST, "--max-connections", "5") as server:
        with server.clients(5) as served:
            for sock in served:
                sock.sendall(bytes(BURST_BYTES))
                assert read_exactly(sock, 32) == ACK_BYTES
            with server.clients(3) as turned_away:
                assert all(closed_by_peer(sock) for sock in turned_away)
            stats = server.stats()["connections"]
            assert stats == {"now": 5, "accepted": 5, "refused": 3}
            for sock in served[:2]:
                sock.close()
            server.wait_for(lambda stats: stats["connections"]["now"] == 3)
            with server.clients(2) as newcomers:
                for sock in newcomers + served[2:]:
                    sock.sendall(bytes(BURST_BYTES))
                    assert read_exactly(sock, 32) == ACK_BYTES
        assert server.rest()["connections"]["accepted"] == 7


def test_a_server_out_of_descriptors_serves_on_and_accepts_when_there_are_some(
    variant: tuple[str, ...],
) -> None:
    with Server(*variant, *BURST) as server:
        with server.clients(4) as early:
            server.wait_for(lambda stats: stats["connections"]["now"] == 4)
            _, hard = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
            used = server.descriptors()
            lowest_free = next(number for number in count() if number not in used)
            resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (lowest_free, hard))
            # One may take the place of the admin connection that has just ended.
            with server.clients(3) as late:
                for sock in late:
                    sock.sendall(bytes(BURST_BYTES))
                for _ in range(TURNS):
                    for sock in early:
                        sock.sendall(bytes(BURST_BYTES))
                        assert read_exactly(sock, 32) == ACK_BYTES
                assert not select.select(late[1:], [], [], 0.3)[0]
                resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (hard, hard))
                assert all(read_exactly(sock, 32) == ACK_BYTES for sock in late)
        stats = server.rest()
        # It rests between two attempts to accept, but in no thread that serves.
        assert 0 < stats["errors"]["accept"] < TURNS
        assert stats["connections"]["accepted"] == 7


@pytest.mark.parametrize("writers", ["0", "4"])
def test_a_thread_that_cannot_be_made_costs_its_connection_only(writers: str) -> None:
    # The address space has room for the stacks of a few threads, not of all.
    def small_address_space() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))

    with Server(
        "threaded", *BURST, "--stack-kb", str(48 << 10), "--writers", writers,
        limits=small_address_space,
    ) as server:  # fmt: skip
        with server.clients(60) as socks:
            stats = server.wait_for(
                lambda stats: (
                    sum(stats["connections"][key] for key in ("accepted", "refused")) == 60
                )
            )["connections"]
            assert stats["refused"] > 0
            assert stats["now"] == stats["accepted"] > 0
            answered = 0
            for sock in socks:
                try:
                    sock.sendall(bytes(BURST_BYTES))
                    answered += read_exactly(sock, 32) == ACK_BYTES
                except ConnectionError:
                    pass
            assert answered == stats["accepted"]
        server.rest()
        with server.connect() as sock:
            sock.sendall(bytes(BURST_BYTES))
            assert read_exactly(sock, 32) == ACK_BYTES


def test_a_full_queue_makes_its_producer_wait_and_loses_nothing() -> None:
    bursts = 5000
    with Server(
        "seda", "--packets", "1", "--packet-bytes", "1", "--queue-capacity", "4", "--batch", "2"
    ) as server:
        with server.clients(8) as socks:
            senders = [
                threading.Thread(target=sock.sendall, args=(bytes(bursts),)) for sock in socks
            ]
            for sender in senders:
                sender.start()
            for sock in socks:
                for stage in server.stats()["stages"]:
                    assert stage["queue_capacity"] in (4, None)
                    assert stage["queue_length"] <= 4
                assert read_exactly(sock, 32 * bursts) == ACK_BYTES * bursts
            for sender in senders:
                sender.join()
        server.rest()
        # A batch is counted out when its handler has returned: after the last reply is out.
        stats = server.wait_for(
            lambda stats: all(s["events_in"] == s["events_out"] for s in stats["stages"])
        )
        stages = {stage["name"]: stage for stage in stats["stages"]}
        assert list(stages) == ["accept", "read", "acknowledge", "write"]
        assert stages["acknowledge"]["events_in"] == 8 * bursts
        assert all(stage["dropped"] == stage["faults"] == 0 for stage in stages.values())
        assert stages["acknowledge"]["batches"] >= 8 * bursts / 2
