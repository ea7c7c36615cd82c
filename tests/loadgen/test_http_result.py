"""What is made of the records of a run: known answers, and sums that always hold."""

from __future__ import annotations

import itertools
import json
import socket
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.demand.mixes import Mix, Template
from loadgen.http.config import HttpConfig
from loadgen.http.records import (
    ANSWERED,
    CONNECTION,
    NEVER_SENT,
    OUTCOMES,
    REJECTED,
    TIMEOUT,
    WRONG,
    Raw,
    Records,
)
from loadgen.http.result import HttpResult, percentiles_us, summarise
from loadgen.net.targets import Target

START_NS = 5_000_000_000_000

TARGET = Target("127.0.0.1", 80, socket.AF_INET, ("127.0.0.1", 80))

MIX = Mix(
    "two",
    (Template("b", "GET", "/1", 1), Template("a", "GET", "/2", 1), Template("b", "GET", "/3", 1)),
)

Row = tuple[float, float | None, float | None, int]
"""When it was due, sent and done, in ms from the start, and its outcome."""


def config(**settings: Any) -> HttpConfig:
    usual = {"connections": 2, "duration_s": 1.0, "warmup_s": 0.5, "rate": 100.0, "slo_s": 0.1}
    return HttpConfig(TARGET, "test", MIX, **(usual | settings))


def records(
    rows: Sequence[Row],
    *,
    template: Sequence[int] = (),
    connection: Sequence[int] = (),
    lag_us: Sequence[float] = (),
) -> Records:
    def times(place: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.array(
            [0 if (at_ms := row[place]) is None else START_NS + round(at_ms * 1e6) for row in rows],
            np.int64,
        )

    none = [-1 if row[1] is None else 0 for row in rows]
    return Records(
        times(0), times(1), times(2),
        np.array([us * 1e3 for us in lag_us] or [0] * len(rows), np.int64),
        np.array([row[3] for row in rows], np.uint8),
        np.array(template or [0] * len(rows), np.uint16),
        np.array(connection or none, np.int32),
    )  # fmt: skip


def raw(found: Records, **other: Any) -> Raw:
    usual: dict[str, Any] = {
        "connected": 2, "error_kinds": {}, "reconnects": 0, "cpu_ns": 0, "busy": 0.5,
        "own_unsent": 0, "first_wrong": "", "paused_ns": 0,
    }  # fmt: skip
    return Raw(records=found, start_ns=START_NS, **(usual | other))


def result(rows: Sequence[Row], **columns: Sequence[Any]) -> dict[str, Any]:
    return summarise(config(), [raw(records(rows, **columns))]).summary


def at(due_ms: float, took_ms: float = 1.0, outcome: int = ANSWERED) -> Row:
    return due_ms, due_ms, due_ms + took_ms, outcome


def test_the_window_has_its_first_moment_and_not_its_last() -> None:
    found = result([at(499.9), at(500), at(1499.9), at(1500)])
    assert (found["scheduled"], found["answered"], found["offered_rps"]) == (2, 2, 2.0)
    assert (found["duration_s"], found["warmup_s"]) == (1.0, 0.5)


def test_latency_is_of_what_was_due_in_the_window_and_throughput_of_what_came_in_it() -> None:
    found = result(
        [
            at(400, 150),  # of the warm-up, answered in the window, too late to be good
            at(450, 100),  # just good
            at(600, 50),
            at(1450, 300),  # of the window, answered after it
        ]
    )
    assert (found["scheduled"], found["answered"]) == (2, 2)
    assert (found["throughput_rps"], found["goodput_rps"]) == (3.0, 2.0)
    assert found["latency_us"]["max"] == 300_000


def test_every_outcome_has_its_account() -> None:
    found = result(
        [
            at(600),
            at(601, 3, REJECTED),
            at(602, 1, WRONG),
            at(603, 1, TIMEOUT),
            at(604, 1, CONNECTION),
            (605, None, None, NEVER_SENT),
            (606, None, None, NEVER_SENT),
        ]
    )
    assert (found["scheduled"], found["sent"]) == (7, 5)
    assert (found["answered"], found["rejected"]) == (1, 1)
    assert found["errors"] == {"wrong": 1, "timeout": 1, "connection": 1, "never_sent": 2}
    assert found["latency_us"]["max"] == 1000
    assert found["rejected_latency_us"]["p50"] == 3000


def test_latency_counts_from_the_schedule_and_service_latency_from_the_send() -> None:
    found = result([(600, 620, 625, ANSWERED)])
    assert found["latency_us"]["p50"] == 25_000
    assert found["service_latency_us"]["p50"] == 5_000


def test_percentiles_are_by_nearest_rank() -> None:
    thousand = np.arange(1, 1001) * 1000
    np.random.default_rng(1).shuffle(thousand)
    assert percentiles_us(thousand) == {
        "p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1000, "mean": 500.5,
    }  # fmt: skip
    three = percentiles_us(np.array([7000, 1000, 4000]))
    assert three == {"p50": 4, "p90": 7, "p99": 7, "p999": 7, "max": 7, "mean": 4}
    assert set(percentiles_us(np.array([], np.int64)).values()) == {None}


def test_classes_of_one_name_are_one() -> None:
    found = result(
        [at(600, 1), at(601, 2), at(602, 3, REJECTED), at(603, 5)], template=[0, 1, 2, 2]
    )
    assert found["by_class"] == {
        "a": {"scheduled": 1, "answered": 1, "rejected": 0, "p50_us": 2000, "p99_us": 2000},
        "b": {"scheduled": 3, "answered": 2, "rejected": 1, "p50_us": 1000, "p99_us": 5000},
    }


def test_the_timeline_has_everything_in_its_tenth_of_a_second() -> None:
    every_tenth = [at(100 * number) for number in range(15)]  # none may slip into its neighbour
    found = result([*every_tenth, at(1499, 400), at(1450, 2, WRONG), (1, None, None, NEVER_SENT)])
    timeline = found["timeline"]
    assert timeline["bin_s"] == 0.1
    assert timeline["t_s"] == [number / 10 for number in range(19)]
    assert timeline["offered"] == [2, *[1] * 13, 3, 0, 0, 0, 0]
    assert timeline["answered"] == [1] * 15 + [0, 0, 0, 1]
    assert timeline["good"] == [1] * 15 + [0] * 4
    assert timeline["errors"] == [1] + [0] * 13 + [1] + [0] * 4
    assert timeline["never_sent"] == [1] + [0] * 18
    assert timeline["rejected"] == [0] * 19
    assert timeline["p99_us"] == [1000.0] * 15 + [None] * 3 + [400_000.0]


@pytest.mark.parametrize(
    ("connection", "index"), [([0, 1, 0, 1], 1.0), ([0, 0, 0, 0], 0.5), ([0, 0, 0, 1], 0.8)]
)
def test_fairness_is_over_all_connections_idle_ones_too(
    connection: list[int], index: float
) -> None:
    found = result([at(600 + number) for number in range(4)], connection=connection)
    assert found["jain_fairness"] == pytest.approx(index)


def test_without_a_single_answer_there_are_no_figures_and_no_failure() -> None:
    for rows in ([], [(600, None, None, NEVER_SENT)]):
        found = result(rows)
        assert found["jain_fairness"] is None
        assert set(found["latency_us"].values()) == {None}
        assert found["latency_quantiles"] == {"q": [], "latency_us": []}
        assert any("no request was answered" in warning for warning in found["warnings"])
        json.dumps(found, allow_nan=False)


def good_rows() -> list[Row]:
    return [at(500 + number, 10) for number in range(1000)]


def test_a_run_without_fault_is_valid() -> None:
    found = summarise(config(), [raw(records(good_rows(), lag_us=[5.0] * 1000))]).summary
    assert (found["valid"], found["invalid_reasons"], found["warnings"]) == (True, [], [])
    assert found["send_lag_us"] == {"p50": 5, "p99": 5, "max": 5}


@pytest.mark.parametrize(
    ("lags_us", "other", "words"),
    [
        ([0.0] * 980 + [1001.0] * 20, {}, "sent late: 99th percentile 1.00 ms"),
        ([0.0] * 980 + [999.0] * 20, {}, ""),  # a tenth of 10 ms is more
        ([0.0] * 1000, {"busy": 0.96}, "core was saturated (96%)"),
        ([0.0] * 1000, {"connected": 1}, "1 of 2 connections came up"),
        ([0.0] * 1000, {"paused_ns": 11_000_000}, "stood still: for 11 ms of the window"),
        ([0.0] * 1000, {"paused_ns": 10_000_000}, ""),
        ([0.0] * 1000, {"own_unsent": 11}, "11 requests were never sent"),
        ([0.0] * 1000, {"own_unsent": 10}, ""),
    ],
)
def test_every_reason_of_invalidity_is_said(
    lags_us: list[float], other: dict[str, Any], words: str
) -> None:
    found = summarise(config(), [raw(records(good_rows(), lag_us=lags_us), **other)]).summary
    assert found["valid"] == (not words)
    assert len(found["invalid_reasons"]) == bool(words)
    assert words in "".join(found["invalid_reasons"])


def test_a_lag_over_a_tenth_of_the_median_latency_is_invalid() -> None:
    rows = [at(500 + number, 0.5) for number in range(1000)]
    found = summarise(config(), [raw(records(rows, lag_us=[51.0] * 1000))]).summary
    assert "51 us, over a tenth of the median latency (500 us)" in found["invalid_reasons"][0]


def test_a_window_in_which_nothing_was_due_is_invalid() -> None:
    assert "no request was due in the window" in result([at(100)])["invalid_reasons"]


def test_a_closed_loop_has_no_send_lag_and_no_schedule() -> None:
    found = summarise(config(rate=None), [raw(records(good_rows()))]).summary
    assert (found["mode"], found["rate"], found["arrivals"]) == ("closed", None, None)
    assert found["send_lag_us"] == {"p50": None, "p99": None, "max": None}
    assert found["valid"]


def warnings(rows: Sequence[Row], **other: Any) -> list[str]:
    found: list[str] = summarise(config(), [raw(records(rows), **other)]).summary["warnings"]
    return found


def test_a_wrong_reply_is_warned_of_with_the_first() -> None:
    said = warnings([*good_rows(), at(700, 1, WRONG)], first_wrong="GET /1: status 404, not 200")
    assert said == ["a reply was wrong; the first: GET /1: status 404, not 200"]


def test_lost_connections_are_warned_of_with_their_own_kinds_only() -> None:
    kinds = {"timeout": 5, "reset": 2, "connect_refused": 9, "status_404": 1, "wrong_length": 1}
    said = warnings([*good_rows(), at(701, 1, CONNECTION)], error_kinds=kinds)
    assert said == [
        "1 requests were lost with their connections (in the whole run, warm-up included: reset 2)"
    ]


@pytest.mark.parametrize("outcome", [TIMEOUT, NEVER_SENT])
def test_percentiles_of_survivors_are_warned_of(outcome: int) -> None:
    lost = at(700, 900, TIMEOUT) if outcome == TIMEOUT else (700.0, None, None, NEVER_SENT)
    assert warnings([*good_rows(), *[lost] * 10]) == []
    (said,) = warnings([*good_rows(), *[lost] * 11])
    assert said == (
        "1.1% of the requests timed out or were never sent: the latencies are of those that were "
        "answered, within the time-out of 5 s"
    )


def test_a_trace_has_no_rate() -> None:
    class Traced(HttpConfig):
        length_s = 1.5

    traced = Traced(TARGET, "test", MIX, connections=2, warmup_s=0.5, rate=1.0, arrivals="trace:x")
    found = summarise(traced, [raw(records(good_rows()))]).summary
    assert (found["mode"], found["arrivals"], found["rate"]) == ("open", "trace:x", None)


def test_records_out_of_order_are_put_in_order() -> None:
    found = summarise(config(), [raw(records([at(900, 3), at(600, 1), at(700, 2)]))])
    assert ((found.records.done_ns - found.records.scheduled_ns) // 1_000_000).tolist() == [1, 2, 3]
    assert found.summary["scheduled"] == 3


def test_processes_are_put_together_by_schedule_and_their_connections_numbered_on() -> None:
    first = raw(
        records([at(500), at(700), (900, None, None, NEVER_SENT)], connection=[0, 1, -1]),
        error_kinds={"reset": 1, "closed": 1}, reconnects=1, cpu_ns=10**9, busy=0.2,
    )  # fmt: skip
    second = raw(
        records([at(600), at(800)], connection=[1, 0]),
        error_kinds={"reset": 2}, reconnects=2, cpu_ns=5 * 10**8, busy=0.9,
    )  # fmt: skip
    for _ in range(2):  # it leaves what it was given as it is
        found = summarise(config(connections=4), [first, second])
        assert (found.records.scheduled_ns - START_NS).tolist() == [
            500_000_000, 600_000_000, 700_000_000, 800_000_000, 900_000_000,
        ]  # fmt: skip
        assert found.records.connection.tolist() == [0, 3, 1, 2, -1]
    summary = found.summary
    assert (summary["connected"], summary["processes"], summary["scheduled"]) == (4, 2, 5)
    assert summary["error_kinds"] == {"reset": 3, "closed": 1}
    assert (summary["reconnects"], summary["client_cpu"], summary["client_busy"]) == (3, 1.5, 0.9)
    assert summary["jain_fairness"] == 1.0


@st.composite
def runs(draw: st.DrawFn) -> tuple[HttpConfig, list[Row], list[int]]:
    """A run of any outcomes, within and around the window."""
    rows: list[Row] = []
    for due_ms in sorted(draw(st.lists(st.integers(0, 1500), max_size=60))):
        outcome = draw(st.sampled_from(range(len(OUTCOMES))))
        if outcome == NEVER_SENT:
            rows.append((due_ms, None, None, outcome))
        else:
            sent_ms = due_ms + draw(st.integers(0, 300))
            rows.append((due_ms, sent_ms, sent_ms + draw(st.integers(1, 900)), outcome))
    templates = draw(st.lists(st.integers(0, 2), min_size=len(rows), max_size=len(rows)))
    return config(slo_s=draw(st.sampled_from([0.001, 0.1, 1.0]))), rows, templates


@settings(max_examples=150, deadline=None)
@given(runs())
def test_the_accounts_add_up(run: tuple[HttpConfig, list[Row], list[int]]) -> None:
    settings_, rows, templates = run
    found: HttpResult = summarise(settings_, [raw(records(rows, template=templates))])
    s = found.summary
    assert s["answered"] + s["rejected"] + sum(s["errors"].values()) == s["scheduled"]
    assert s["sent"] == s["scheduled"] - s["errors"]["never_sent"]
    assert 0 <= s["goodput_rps"] <= s["throughput_rps"]
    for what in ("scheduled", "answered", "rejected"):
        assert sum(of_class[what] for of_class in s["by_class"].values()) == s[what]
    timeline = s["timeline"]
    assert len({len(timeline[what]) for what in timeline if what != "bin_s"}) == 1
    assert sum(timeline["offered"]) == len(rows)
    for what, outcomes in (
        ("answered", {ANSWERED}),
        ("rejected", {REJECTED}),
        ("errors", {WRONG, TIMEOUT, CONNECTION, NEVER_SENT}),
        ("never_sent", {NEVER_SENT}),
    ):
        assert sum(timeline[what]) == sum(row[3] in outcomes for row in rows)
    assert all(
        good <= answered
        for good, answered in zip(timeline["good"], timeline["answered"], strict=True)
    )
    latency = s["latency_us"]
    if s["answered"]:
        in_order = [latency[name] for name in ("p50", "p90", "p99", "p999", "max")]
        assert in_order == sorted(in_order)
    quantiles = s["latency_quantiles"]
    for values in quantiles.values():
        assert values == sorted(values)
    assert all(a < b for a, b in itertools.pairwise(quantiles["q"]))
    json.dumps(s, allow_nan=False)
    assert set(found.to_json(timeline=True)) - set(found.to_json()) == {
        "timeline", "latency_quantiles",
    }  # fmt: skip


def test_quantiles_are_dense_in_the_tail_and_each_is_a_latency_that_occurred() -> None:
    rows = [at(500 + number / 100, 1 + number / 1000) for number in range(20_000)]
    quantiles = result(rows)["latency_quantiles"]
    q = np.array(quantiles["q"])
    assert 100 < len(q) <= 200
    for tail in (0.1, 0.01, 0.001):
        assert ((1 - q < tail) & (1 - q > tail / 10)).sum() > 10
    assert quantiles["latency_us"] == pytest.approx(1000 + (q * 20_000 - 1), abs=0.01)
