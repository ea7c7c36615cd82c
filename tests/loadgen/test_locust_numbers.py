"""What a swarm computes with: buckets, plans, arrivals in slices, the record of a run."""

from __future__ import annotations

import math
from argparse import Namespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.engine.account import COUNTS
from loadgen.engine.histogram import (
    bucket_ms,
    buckets_of,
    packed,
    percentile_us,
    summary_us,
    unpacked,
    us_of,
)
from loadgen.engine.live_schedule import LiveSchedule
from loadgen.engine.process import SLICE_NS
from loadgen.errors import LoadError
from loadgen.swarm import options as locust_options
from loadgen.swarm import plan as locust_plan
from loadgen.swarm.plan import Step, step_at
from loadgen.swarm.record import BIN_S, Record

US = st.floats(1, 1e9)


@given(US)
def test_what_a_bucket_says_is_half_a_percent_off_at_most(us: float) -> None:
    bucket = int(buckets_of(np.array([round(us * 1e3)]))[0])
    assert us_of(bucket) == pytest.approx(us, rel=0.0051, abs=0.001)


@given(US)
def test_locust_is_given_the_same_buckets(us: float) -> None:
    assert bucket_ms(us / 1e3) == pytest.approx(us / 1e3, rel=0.0051)
    assert bucket_ms(bucket_ms(us / 1e3)) == bucket_ms(us / 1e3)


@given(st.lists(st.integers(1000, 10**11), min_size=1, max_size=200))
def test_percentiles_are_those_of_the_latencies_to_half_a_percent(latencies: list[int]) -> None:
    found, counts = np.unique(buckets_of(np.array(latencies)), return_counts=True)
    buckets = dict(zip(found.tolist(), counts.tolist(), strict=True))
    for share in (0.5, 0.9, 0.99, 1.0):
        nearest = sorted(latencies)[math.ceil(share * len(latencies)) - 1] / 1e3
        assert percentile_us(buckets, share) == pytest.approx(nearest, rel=0.0051)


@given(st.lists(st.tuples(st.integers(-1, 100), st.integers(0, 2**31 - 1)), max_size=20))
def test_rows_come_out_of_a_report_as_they_went_in(rows: list[tuple[int, int]]) -> None:
    there = packed(np.array(rows, np.int64).reshape(-1, 2))
    assert unpacked(there, 2) == [list(row) for row in rows]


def test_without_a_latency_there_is_no_percentile() -> None:
    assert set(summary_us({}).values()) == {None}


@given(st.lists(st.floats(0, 50_000), min_size=1, max_size=20))
def test_evenly_spaced_requests_are_neither_lost_nor_made_up_where_the_rate_changes(
    rates: list[float],
) -> None:
    arrivals = LiveSchedule("constant", 1)
    count = 0
    for number, rate in enumerate(rates):
        times = arrivals.times(number * SLICE_NS, SLICE_NS, rate)
        assert (np.diff(times) >= 0).all()
        assert ((times >= number * SLICE_NS) & (times < (number + 1) * SLICE_NS)).all()
        count += len(times)
    assert count == pytest.approx(sum(rates) * SLICE_NS / 1e9, abs=1.001)


@given(st.floats(0, 100_000), st.integers(0, 1000))
def test_poisson_arrivals_of_a_slice_are_in_it_and_ascend(rate: float, seed: int) -> None:
    times = LiveSchedule("poisson", seed).times(7, SLICE_NS, rate)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 7) & (times < 7 + SLICE_NS)).all()


def test_a_plan_says_what_is_due_and_when_it_is_over() -> None:
    plan = locust_plan.overload((0.5, 2), 10, 1)
    assert [step_at(plan, at) for at in (0.5, 1.5, 11.5, 12.5)] == [
        Step(0.5, 1, None, "sweep"),
        Step(0.5, 10, 0, "sweep"),
        Step(2, 1, None, "sweep"),
        Step(2, 10, 1, "sweep"),
    ]
    assert step_at(plan, 22.5) is None
    assert step_at(locust_plan.steady(math.inf, 0), 1e6) == Step(1, math.inf, 0)


def test_a_spike_is_one_trial_before_during_and_after() -> None:
    plan = locust_plan.spike(3, 2, 1, 6, 0)
    assert [(s.factor, s.lasts_s, s.trial) for s in plan] == [(1, 2, 0), (3, 1, 0), (1, 3, 0)]
    with pytest.raises(LoadError, match="longer --duration"):
        locust_plan.spike(3, 5, 5, 6, 0)
    with pytest.raises(LoadError, match="must last above 0 s"):
        locust_plan.spike(3, 5, 0, 6, 0)


def test_a_spike_of_which_nobody_says_how_long_has_a_part_after_it() -> None:
    options = Namespace(
        spike="3,5,5", duration=0.0, run_time=None, warmup=0.0, rate=1.0, connections=1, timeout=1.0
    )
    *_, last = locust_options.plan(options, "spike")
    assert (last.factor, last.lasts_s) == (1, 10)


@pytest.mark.parametrize("text", ["", "1,x", "-1", "inf", "1,,2"])
def test_numbers_that_are_none_are_named_with_their_option(text: str) -> None:
    with pytest.raises(LoadError, match="--loads must be numbers"):
        locust_plan.numbers("loads", text)


PARAMETERS = {
    "target": "", "rate": 200.0, "mix": "", "arrivals": "constant", "seed": 1,
    "connections": 1, "warmup": 0, "timeout": 1, "slo": 100,
}  # fmt: skip


def report(**counts: int) -> dict[str, object]:
    return {
        "elapsed_s": 0.5, "trials": {"0": dict.fromkeys(COUNTS, 0) | counts}, "cells": [],
        "error_kinds": {}, "cpu_s": 0.0, "limited": False, "first_wrong": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ({"scheduled": 1000, "stalled_ns": 3_000_000_000}, "stood still for 3.0 s"),
        ({"scheduled": 800}, "160.0 of 200.0 requests/s were offered"),
    ],
)
def test_a_trial_that_was_not_offered_what_was_asked_is_not_valid(
    counts: dict[str, int], says: str
) -> None:
    record = Record(PARAMETERS)
    record.workers = {"a": {"connected": 1}}
    for at_s in (0, 5):
        record.asked(0, 1, "steady", at_s)
    answers = {"answered": counts["scheduled"], "done": counts["scheduled"]}
    record.add("a", report(ns=5_000_000_000, **counts, **answers), 5)
    (trial,) = record.to_json("complete")["trials"]
    (reason,) = trial["result"]["invalid_reasons"]
    assert says in reason


def test_counts_of_all_workers_are_added_and_each_bin_gets_its_share_of_a_report() -> None:
    record = Record(PARAMETERS)
    record.workers = {"a": {"connected": 1}, "b": {"connected": 1}}
    record.asked(0, 1, "steady", 0)
    for worker in ("a", "b"):
        for number in range(4):
            until_s = 0.7 + 0.5 * number
            lost = {"timeout": 2, "connection": 3, "never_sent": 5, "wrong": 1}
            news = report(ns=500_000_000, scheduled=50, answered=30, done=30, rejected=9, **lost)
            record.add(worker, news, until_s)
    said = record.to_json("complete")
    (trial,) = said["trials"]
    assert trial["result"]["scheduled"] == 400
    assert trial["result"]["duration_s"] == 2
    assert trial["result"]["offered_rps"] == 200
    assert trial["result"]["valid"]
    timeline = said["timeline"]
    assert sum(timeline["offered"]) == pytest.approx(400, abs=0.1)
    ended = (sum(timeline[name]) for name in ("answered", "rejected", "errors"))
    assert sum(ended) == pytest.approx(400, abs=0.1)
    assert sum(timeline["never_sent"]) == pytest.approx(40, abs=0.1)
    assert timeline["offered"][1:4] == pytest.approx([100, 100, 100])
    assert timeline["offered"][0] == pytest.approx(200 * (BIN_S - 0.2))
