"""The session of `burst`: a count of bytes, whatever the chunking."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from servers.services.burst import ACK, Burst, BurstOptions


def burst(packets: int, packet_bytes: int) -> Burst:
    return Burst(BurstOptions(packets=packets, packet_bytes=packet_bytes))


@given(
    packets=st.integers(1, 5),
    packet_bytes=st.integers(1, 50),
    chunks=st.lists(st.integers(0, 600), max_size=30),
)
def test_requests_are_complete_bursts_after_every_chunk(
    packets: int, packet_bytes: int, chunks: list[int]
) -> None:
    size = packets * packet_bytes
    session = burst(packets, packet_bytes).session()
    received = requests = 0
    for chunk in chunks:
        received += chunk
        requests += len(session.receive(memoryview(bytes(chunk))))
        assert requests == received // size
        assert session.idle == (received % size == 0)


@given(chunks=st.lists(st.integers(1, 600), max_size=30), size=st.integers(1, 500))
def test_chunking_makes_no_difference(chunks: list[int], size: int) -> None:
    in_chunks, at_once = burst(1, size).session(), burst(1, size).session()
    number = sum(len(in_chunks.receive(memoryview(bytes(chunk)))) for chunk in chunks)
    assert number == len(at_once.receive(memoryview(bytes(sum(chunks)))))
    assert in_chunks.idle == at_once.idle


def test_the_one_step_makes_an_ack() -> None:
    service = burst(1, 1)
    (request,) = service.session().receive(memoryview(b"x"))
    assert request.step is service.first
    assert request.step(request) is None
    assert request.reply is ACK
    assert not request.last
