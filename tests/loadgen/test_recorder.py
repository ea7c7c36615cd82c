from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.recorder import Timeline, jain_index, latency_summary_us


@pytest.mark.parametrize(
    ("shares", "index"),
    [
        ([5], 1.0),
        ([7, 7, 7], 1.0),
        ([1, 0], 0.5),
        ([10, 0, 0, 0], 0.25),
        ([1, 2, 3], 36 / 42),
        ([10**15, 10**15], 1.0),
    ],
)
def test_jain_index_of_known_shares(shares: list[int], index: float) -> None:
    assert jain_index(shares) == pytest.approx(index)


@pytest.mark.parametrize("shares", [[], [0], [0, 0, 0]])
def test_jain_index_of_nothing_is_none(shares: list[int]) -> None:
    assert jain_index(shares) is None


@given(st.lists(st.integers(0, 10**13), min_size=1).filter(any), st.integers(1, 1000))
def test_jain_index_lies_between_1_over_n_and_1_and_knows_no_unit(
    shares: list[int], factor: int
) -> None:
    index = jain_index(shares)
    assert index is not None
    assert 1 / len(shares) - 1e-9 <= index <= 1 + 1e-9
    assert index == pytest.approx(jain_index([x * factor for x in shares]))


def test_percentiles_are_nearest_rank_in_microseconds() -> None:
    summary = latency_summary_us([n * 1000 for n in range(100, 0, -1)])
    assert summary == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0, "samples": 100}


def test_one_sample_is_every_percentile() -> None:
    summary = latency_summary_us([1500])
    assert summary == {"p50": 1.5, "p90": 1.5, "p99": 1.5, "max": 1.5, "samples": 1}


def test_percentiles_of_nothing_are_null() -> None:
    summary = latency_summary_us([])
    assert summary == {"p50": None, "p90": None, "p99": None, "max": None, "samples": 0}


@given(st.lists(st.integers(0, 10**12), min_size=1))
def test_percentiles_are_samples_in_order(latencies_ns: list[int]) -> None:
    summary = latency_summary_us(latencies_ns)
    values = [summary[name] for name in ("p50", "p90", "p99", "max")]
    assert set(values) <= {ns / 1e3 for ns in latencies_ns}
    assert values == sorted(values, key=lambda v: v or 0)
    assert summary["max"] == max(latencies_ns) / 1e3


def test_timeline_interpolates_between_samples_and_is_constant_beyond() -> None:
    timeline = Timeline()
    timeline.add(100, 0, 0)
    timeline.add(200, 1000, 1)
    timeline.add(300, 1000, 1)
    assert [timeline.bytes_at(t) for t in (0, 100, 150, 200, 250, 300, 999)] == [
        *(0, 0, 500, 1000, 1000, 1000, 1000)
    ]
    assert timeline.to_json() == {
        "t_ns": [100, 200, 300],
        "bytes": [0, 1000, 1000],
        "bursts": [0, 1, 1],
    }


def test_pauses_are_gaps_within_the_window_that_are_longer_than_the_most() -> None:
    timeline = Timeline()
    for t_ns in (0, 50, 100, 110, 120, 190, 200, 300):
        timeline.add(t_ns, 0, 0)
    assert timeline.paused_ns(100, 200, most_ns=20) == 70
    assert timeline.paused_ns(100, 200, most_ns=70) == 0
    assert timeline.paused_ns(0, 300, most_ns=20) == 50 + 50 + 70 + 100
