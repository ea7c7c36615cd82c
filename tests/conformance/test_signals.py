"""SIGTERM, SIGINT and SIGHUP: accept no more, finish what is in flight, exit with status 0."""

from __future__ import annotations

import ctypes
import random
import signal
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest

from servers.services.burst import ACK
from tests.conformance.conftest import PACKET_BYTES, PACKETS
from tests.conformance.server import (
    DEADLINE_S,
    ROOT,
    Server,
    closed_by_peer,
    read_exactly,
    read_to_end,
)

BURST_BYTES = PACKETS * PACKET_BYTES
BURST = ("--packets", str(PACKETS), "--packet-bytes", str(PACKET_BYTES))
HALF = bytes(BURST_BYTES // 2)
(ACK_BYTES,) = ACK


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_idle_server_says_goodbye_and_exits(variant: tuple[str, ...], number: int) -> None:
    with Server(*variant, *BURST) as server:
        with server.clients(3) as socks:
            socks[0].sendall(bytes(BURST_BYTES))
            assert read_exactly(socks[0], 32) == ACK_BYTES
            server.wait_for(lambda stats: stats["connections"]["now"] == 3)
            server.signal(number)
            assert all(read_to_end(sock) == b"" for sock in socks)
        server.wait()
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_a_signal_that_meets_another_thread_than_the_main_one_is_heard(
    variant: tuple[str, ...],
) -> None:
    # So the kernel may choose; and one that comes just before the main thread waits is no better.
    with Server(*variant, *BURST) as server, server.connect() as sock:
        sock.sendall(bytes(BURST_BYTES))
        assert read_exactly(sock, 32) == ACK_BYTES
        threads = {int(task.name) for task in Path(f"/proc/{server.pid}/task").iterdir()}
        tgkill = ctypes.CDLL(None).tgkill
        assert tgkill(server.pid, max(threads - {server.pid}), signal.SIGTERM) == 0
        assert read_to_end(sock) == b""
        sock.close()
        server.wait()


def test_a_burst_in_flight_is_still_received_and_acknowledged(variant: tuple[str, ...]) -> None:
    with Server(*variant, *BURST) as server, server.clients(5) as socks:
        for sock in socks:
            sock.sendall(HALF)
        server.wait_for(lambda stats: stats["bytes_in"] == 5 * len(HALF))
        server.signal()
        server.wait_until_refusing()
        for sock in socks:
            sock.sendall(HALF)
            assert read_to_end(sock) == ACK_BYTES
            sock.close()
        server.wait()


def test_a_second_signal_changes_nothing(variant: tuple[str, ...]) -> None:
    with Server(*variant, *BURST) as server, server.connect() as sock:
        sock.sendall(HALF)
        server.wait_for(lambda stats: stats["bytes_in"] == len(HALF))
        server.signal(signal.SIGTERM)
        server.wait_until_refusing()
        server.signal(signal.SIGTERM)
        server.signal(signal.SIGINT)
        sock.sendall(HALF)
        assert read_to_end(sock) == ACK_BYTES
        sock.close()
        server.wait()


ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def test_signals_in_any_order_and_number_end_it_in_order(variant: tuple[str, ...]) -> None:
    chance = random.Random(1)
    for _ in range(2):
        with Server(*variant, *BURST) as server, server.connect() as sock:
            sock.sendall(HALF)
            server.wait_for(lambda stats: stats["bytes_in"] == len(HALF))
            for _ in range(3):
                server.signal(chance.choice(ENDING))
            sock.sendall(HALF)
            assert read_to_end(sock) == ACK_BYTES
            sock.close()
            while not server.exited():  # while it ends, too
                server.signal(chance.choice(ENDING))
            server.wait()


def test_a_signal_that_comes_before_it_serves_ends_it_as_quietly(variant: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "servers", *variant, *BURST, "--port", "0"]
    for number in ENDING:
        # Held back, as `sedabench serve` does it: Python itself must start first.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        try:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for _ in range(3):
            process.send_signal(number)
        assert process.communicate(timeout=DEADLINE_S) == (b"", b"")
        assert process.returncode == 0


def test_who_was_told_to_ignore_the_terminals_end_does_so(variant: tuple[str, ...]) -> None:
    def as_nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with Server(*variant, *BURST, limits=as_nohup) as server, server.connect() as sock:
        server.signal(signal.SIGHUP)
        sock.sendall(bytes(BURST_BYTES))
        assert read_exactly(sock, 32) == ACK_BYTES


def test_a_burst_that_never_ends_holds_the_server_for_the_grace_time_only(
    variant: tuple[str, ...],
) -> None:
    with Server(*variant, *BURST, "--grace", "0.2") as server, server.connect() as sock:
        sock.sendall(HALF)
        server.wait_for(lambda stats: stats["bytes_in"] == len(HALF))
        server.signal()
        assert closed_by_peer(sock)
        server.wait()


def test_no_grace_at_all_is_a_grace_time_too(variant: tuple[str, ...]) -> None:
    with Server(*variant, *BURST, "--grace", "0") as server, server.connect() as sock:
        sock.sendall(HALF)
        server.wait_for(lambda stats: stats["bytes_in"] == len(HALF))
        server.signal()
        server.wait()


def test_a_client_that_does_not_close_cannot_keep_the_server(variant: tuple[str, ...]) -> None:
    with Server(*variant, *BURST) as server, server.clients(3) as socks:
        for sock in socks:
            sock.sendall(bytes(BURST_BYTES))
            assert read_exactly(sock, 32) == ACK_BYTES
        server.signal()
        server.wait()


def test_clients_that_go_on_and_on_see_whole_acks_and_then_the_end(
    variant: tuple[str, ...],
) -> None:
    received: dict[int, bytes] = {}

    def go_on(number: int) -> None:
        data = b""
        try:
            with server.connect() as sock:
                for turn in count():
                    sock.sendall(bytes(BURST_BYTES))
                    data += (ack := read_exactly(sock, 32))
                    if turn == 10:
                        running.release()
                    if len(ack) < 32:
                        break
        except ConnectionError:
            pass
        received[number] = data

    running = threading.Semaphore(0)
    with Server(*variant, *BURST) as server:
        clients = [threading.Thread(target=go_on, args=(number,)) for number in range(8)]
        for client in clients:
            client.start()
        for _ in clients:
            running.acquire()
        server.signal()
        for client in clients:
            client.join()
        server.wait()
    for data in received.values():
        assert data == ACK_BYTES * (len(data) // 32)
        assert len(data) >= 11 * 32
