"""The engine against servers that answer properly, badly, or not at all."""

from __future__ import annotations

import gc
import socket
import time
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.burst.config import BurstConfig
from loadgen.burst.loop import ERROR_KINDS, run
from loadgen.burst.result import BurstResult
from loadgen.errors import LoadError
from loadgen.net.targets import Target, resolve

from .scripted import ACK, DEADLINE_S, Peer, Script, acknowledging, serving

PACKET, PACKETS = 1024, 8
BURST = PACKET * PACKETS
LARGE = {"packet_bytes": 65536, "packets": 4096}
"""A burst of 256 MB: more than all socket buffers hold, so it stays incomplete unless read."""


def config(target: Target, **changes: Any) -> BurstConfig:
    base = BurstConfig(
        target, connections=1, duration_s=0.1, warmup_s=0, packet_bytes=PACKET, packets=PACKETS
    )
    return replace(base, **changes)


def measure(script: Script, **changes: Any) -> BurstResult:
    with serving(script) as server:
        return run(config(server.target, **changes))


def broken(**kinds: int) -> dict[str, int]:
    return dict.fromkeys(ERROR_KINDS, 0) | kinds


def why_invalid(result: BurstResult) -> list[str]:
    """But for what a busy machine does: the server is a thread of this very process."""
    assert result.valid == (not result.invalid_reasons)
    return [why for why in result.invalid_reasons if "stood still" not in why]


# What is counted


@pytest.mark.parametrize(
    ("packet_bytes", "packets", "send_buffer"),
    [(1, 1, None), (1, 700, None), (8192, 1, 0), (8192, 40, None), (10_007, 20, 16384)],
)
@pytest.mark.parametrize("connections", [1, 5])
@pytest.mark.parametrize("coalesce", [True, False])
def test_both_ends_count_the_same_bytes_and_bursts(
    packet_bytes: int, packets: int, send_buffer: int | None, connections: int, coalesce: bool
) -> None:
    size = packet_bytes * packets
    # After 3 ACKs the server only reads, so each connection sends 4 bursts and then waits.
    with serving(acknowledging(size, bursts=3)) as server:
        result = run(
            config(
                server.target,
                connections=connections,
                packet_bytes=packet_bytes,
                packets=packets,
                send_buffer_bytes=send_buffer,
                coalesce=coalesce,
                duration_s=0.5,
            )
        )
    assert result.bursts == 3 * connections
    assert result.bytes == 4 * connections * size == server.received
    assert result.jain_fairness == pytest.approx(1)
    assert result.ack_latency_us["samples"] == result.bursts
    assert result.errors == broken()
    assert why_invalid(result) == []


def test_a_generator_that_was_held_up_says_so() -> None:
    def hold_up(name: str, _at_ns: int) -> None:
        if name == "window_begin":
            time.sleep(0.15)

    with serving(acknowledging(BURST)) as server:
        result = run(config(server.target, duration_s=0.5), hold_up)
    assert not result.valid
    assert "the load generator stood still" in result.invalid_reasons[0]


def test_only_the_window_counts() -> None:
    events: dict[str, int] = {}
    with serving(acknowledging(BURST)) as server:
        result = run(
            config(server.target, connections=3, warmup_s=0.1, tail_s=0.1), events.__setitem__
        )
    timeline = result.timeline
    assert list(events) == ["connected", "window_begin", "window_end"]
    begin, end = events["window_begin"], events["window_end"]
    assert result.duration_s == (end - begin) / 1e9 >= 0.1
    assert result.bytes == timeline.bytes_at(end) - timeline.bytes_at(begin)
    assert result.bandwidth_bps == pytest.approx(result.bytes * 8 / result.duration_s)
    assert result.bursts_per_s == pytest.approx(result.bursts / result.duration_s)
    assert timeline.t_ns[0] >= events["connected"]
    assert begin - timeline.t_ns[0] >= 0.1e9
    assert timeline.t_ns[-1] - end >= 0.1e9
    assert timeline.bytes[0] == 0
    assert 0 < result.bursts < timeline.bursts[-1]
    assert 0 < result.bytes < timeline.bytes[-1]
    assert list(timeline.bytes) == sorted(timeline.bytes)


def test_a_late_ack_is_a_latency_of_at_least_its_delay() -> None:
    delay_s = 0.03

    def script(peer: Peer) -> None:
        while True:
            peer.read(BURST)
            peer.stop.wait(delay_s)
            peer.send(ACK)

    result = measure(script, duration_s=0.3)
    latency = result.ack_latency_us
    assert why_invalid(result) == []
    assert latency["p50"] is not None
    assert latency["p50"] >= delay_s * 1e6
    assert result.bursts <= 0.3 / delay_s * 5


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 31), max_size=6))
def test_an_ack_may_come_in_any_pieces(cuts: list[int]) -> None:
    edges = [0, *sorted(set(cuts)), 32]

    def script(peer: Peer) -> None:
        for _ in range(2):
            peer.read(BURST)
            for a, b in pairwise(edges):
                peer.send(ACK[a:b])
        peer.finish()

    result = measure(script, duration_s=5)
    assert result.bursts == 2
    assert result.bytes == 3 * BURST
    assert result.errors == broken(closed=1)


def test_none_begins_before_all_are_connected() -> None:
    first_bytes_ns: list[int] = []
    events: dict[str, int] = {}

    def script(peer: Peer) -> None:
        peer.read(1)
        first_bytes_ns.append(time.monotonic_ns())
        peer.drain()

    with serving(script) as server:
        run(config(server.target, connections=20, connect_rate=200), events.__setitem__)
    assert len(first_bytes_ns) == 20
    assert min(first_bytes_ns) >= events["connected"]


def test_connections_are_opened_at_the_rate_asked_for() -> None:
    events: dict[str, int] = {}
    with serving(acknowledging(BURST)) as server:
        began_ns = time.monotonic_ns()
        run(config(server.target, connections=21, connect_rate=100), events.__setitem__)
    assert events["connected"] - began_ns >= 0.2e9


def test_no_completed_burst_is_a_warning_and_not_an_error() -> None:
    result = measure(lambda peer: peer.drain(), **LARGE)
    assert result.bursts == 0
    assert result.bytes > 0
    assert result.ack_latency_us == dict.fromkeys(("p50", "p90", "p99", "max")) | {"samples": 0}
    assert why_invalid(result) == []
    assert any("no burst was completed" in warning for warning in result.warnings)


def test_ipv6() -> None:
    try:
        with serving(acknowledging(BURST, bursts=2), host="::1") as server:
            result = run(config(server.target))
    except OSError:
        pytest.skip("no IPv6 on this machine")
    assert (result.bursts, why_invalid(result)) == (2, [])


def test_the_garbage_collector_is_as_before() -> None:
    measure(acknowledging(BURST))
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_no_burst_leaves_anything_to_the_garbage_collector() -> None:
    with serving(acknowledging(BURST)) as server:
        gc.collect()
        gc.disable()
        try:
            result = run(config(server.target, connections=4))
            assert gc.collect() < 20
        finally:
            gc.enable()
    assert result.bursts > 100


# What breaks


def short_ack(peer: Peer) -> None:
    peer.read(BURST)
    peer.send(ACK[:16])
    peer.finish()


def long_ack(peer: Peer) -> None:
    peer.read(BURST)
    peer.send(ACK + b"!")
    peer.drain()


def one_byte_after_the_ack(peer: Peer) -> None:
    peer.read(BURST)
    peer.send(ACK)
    peer.read(BURST - 1)  # the next burst is under way, and its ACK is not due
    peer.send(b"!" * 33)
    peer.drain()


def no_ack(peer: Peer) -> None:
    peer.drain()


def half_an_ack(peer: Peer) -> None:
    peer.read(BURST)
    peer.send(ACK[:16])
    peer.drain()


def close_instead_of_ack(peer: Peer) -> None:
    peer.read(BURST)
    peer.finish()


def reset_instead_of_ack(peer: Peer) -> None:
    peer.read(BURST)
    peer.reset()


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (short_ack, "short_ack"),
        (one_byte_after_the_ack, "unexpected_bytes"),
        (no_ack, "timeout"),
        (half_an_ack, "timeout"),
        (close_instead_of_ack, "closed"),
        (reset_instead_of_ack, "reset"),
    ],
)
def test_every_way_to_break_is_counted_by_its_kind(script: Script, kind: str) -> None:
    began = time.monotonic()
    with serving(script) as server:
        result = run(config(server.target, connections=3, duration_s=DEADLINE_S, timeout_s=0.3))
    assert result.errors == broken(**{kind: 3})
    assert not result.valid
    assert f"connections failed ({kind}: 3)" in result.invalid_reasons
    assert "every connection broke in the window" in result.invalid_reasons
    assert len(server.peers) == 3, "a broken connection must never be reopened"
    assert time.monotonic() - began < DEADLINE_S, "nothing is left to wait for"


@pytest.mark.parametrize("ack", [ACK, b"!", ACK * 3])
def test_bytes_before_the_burst_is_sent_are_unexpected(ack: bytes) -> None:
    def script(peer: Peer) -> None:
        peer.read(1)
        if peer.index == 0:
            peer.send(ack)
        peer.drain()

    result = measure(script, connections=2, duration_s=0.3, **LARGE)
    assert result.errors == broken(unexpected_bytes=1)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 3 * BURST))
def test_a_reset_at_any_byte_is_a_reset_and_bytes_before_it_count(k: int) -> None:
    def script(peer: Peer) -> None:
        whole, rest = divmod(k, BURST)
        for _ in range(whole):
            peer.read(BURST)
            peer.send(ACK)
        peer.read(rest)
        peer.stop.wait(0.01)  # lets the last ACK be read: a reset may overtake it
        peer.reset()

    result = measure(script, duration_s=DEADLINE_S)
    assert result.errors == broken(reset=1)
    assert result.bytes >= k
    assert result.bursts == k // BURST


@pytest.mark.parametrize("k", [0, 1, PACKET, BURST - 1, 20 * PACKET * PACKETS])
def test_a_close_in_the_middle_of_a_burst_is_a_close(k: int) -> None:
    def script(peer: Peer) -> None:
        peer.read(k)
        peer.finish()

    result = measure(script, duration_s=DEADLINE_S, **LARGE)
    assert result.errors == broken(closed=1)


def test_one_broken_connection_leaves_the_others_alone() -> None:
    def script(peer: Peer) -> None:
        if peer.index == 2:
            peer.read(BURST // 2)
            peer.reset()
        else:
            acknowledging(BURST, bursts=3)(peer)

    result = measure(script, connections=5, duration_s=0.4)
    assert result.connected == 5
    assert result.errors == broken(reset=1)
    assert result.bursts == 4 * 3
    assert result.jain_fairness is not None
    assert result.jain_fairness < 1
    assert why_invalid(result) == ["connections failed (reset: 1)"]


def test_connections_that_do_not_come_up_are_reported_and_the_rest_measured() -> None:
    # A listener with the shortest backlog that never accepts: the kernel drops
    # the SYNs that do not fit.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        target = resolve(f"127.0.0.1:{listener.getsockname()[1]}")
        result = run(config(target, connections=6, timeout_s=0.5))
    assert 1 <= result.connected < 6
    assert result.errors["timeout"] >= 6 - result.connected
    assert not result.valid
    assert f"{result.connected} of 6 connections came up" in result.invalid_reasons


# What cannot be measured at all


def test_a_port_where_nobody_listens() -> None:
    with socket.socket() as bound:  # bound, so that nobody else takes the port; not listening
        bound.bind(("127.0.0.1", 0))
        target = resolve(f"127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(LoadError, match=f"nothing listens on {target}"):
            run(config(target, connections=10))


def test_a_server_that_never_acknowledges_makes_no_valid_result() -> None:
    result = measure(no_ack, connections=3, duration_s=0.3)
    assert result.bytes == 3 * BURST
    assert why_invalid(result) == ["no burst was ever acknowledged"]


@pytest.mark.parametrize("warmup_s", [0, DEADLINE_S])
def test_a_server_whose_acks_are_none(warmup_s: float) -> None:
    with (
        serving(long_ack) as server,
        pytest.raises(LoadError, match=r"burst protocol.*where an ACK of 32 bytes was due"),
    ):
        run(config(server.target, connections=3, duration_s=DEADLINE_S, warmup_s=warmup_s))


@pytest.mark.parametrize("warmup_s", [0, DEADLINE_S])
def test_a_server_that_speaks_http(warmup_s: float) -> None:
    def script(peer: Peer) -> None:
        peer.read(1)
        peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        peer.reset()

    with (
        serving(script) as server,
        pytest.raises(LoadError, match=r"does not speak the burst protocol.*b'HTTP/1.1 400"),
    ):
        run(config(server.target, connections=4, duration_s=DEADLINE_S, warmup_s=warmup_s, **LARGE))


def test_connections_that_all_break_in_the_warm_up_leave_an_empty_window() -> None:
    result = measure(close_instead_of_ack, connections=2, warmup_s=DEADLINE_S)
    assert (result.bytes, result.duration_s, result.bandwidth_bps) == (0, 0, 0)
    assert result.jain_fairness is None
    assert result.errors == broken(closed=2)
    assert "every connection broke before the window" in result.invalid_reasons
    assert "no bytes were sent in the window" in result.invalid_reasons


@pytest.mark.parametrize(
    "changes",
    [
        {"connections": 0},
        {"packets": 0},
        {"packet_bytes": 0},
        {"packet_bytes": 1 << 30},
        {"duration_s": 0},
        {"duration_s": float("nan")},
        {"duration_s": float("inf")},
        {"warmup_s": -1},
        {"connect_rate": 0},
        {"timeout_s": 0},
        {"send_buffer_bytes": -1},
        {"tail_s": -0.1},
    ],
)
def test_nonsense_is_refused_by_the_name_of_its_option(changes: dict[str, Any]) -> None:
    option = next(iter(changes)).removesuffix("_s").replace("_", "-").removesuffix("-bytes")
    with pytest.raises(LoadError, match=f"^--{option}.* must be from"):
        config(resolve("127.0.0.1:1"), **changes)


@pytest.mark.parametrize(
    ("connections", "send_buffer"),
    [(1, 131072), (2048, 131072), (8192, 131072), (16384, 65536), (10**6, 16384)],
)
def test_send_buffers_shrink_with_the_number_of_connections(
    connections: int, send_buffer: int
) -> None:
    chosen = config(resolve("127.0.0.1:1"), connections=connections).chosen_send_buffer_bytes
    assert chosen == send_buffer
