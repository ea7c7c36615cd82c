"""Conditions of `--fail-if`: what they say, what they find, and what nonsense is told."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.cli.conditions import FIGURES, OPERATORS, Condition, parse_condition
from loadgen.errors import LoadError

LATENCY_US = {
    "p50": 900.0, "p90": 8_000.0, "p99": 61_200.0, "p999": 2.5e6, "max": 3e6, "mean": 2_000.0,
}  # fmt: skip
HTTP: dict[str, Any] = {
    "workload": "http", "scheduled": 20_000, "rejected": 500,
    "errors": {"wrong": 1, "timeout": 20, "connection": 3, "never_sent": 0},
    "latency_us": LATENCY_US, "service_latency_us": {**LATENCY_US, "p99": 700.0},
    "rejected_latency_us": {"p50": 40.0, "p99": 90.0},
    "send_lag_us": {"p50": 3.0, "p99": 25.0, "max": 400.0},
    "offered_rps": 2000.0, "throughput_rps": 1950.0, "goodput_rps": 812.4,
    "client_cpu": 0.97, "jain_fairness": 0.98, "valid": True, "invalid_reasons": [],
}  # fmt: skip
BURST: dict[str, Any] = {
    "workload": "burst", "connections": 64, "errors": {"reset": 1, "refused": 0},
    "ack_latency_us": {"p50": 5e3, "p90": 6e3, "p99": 9e3, "max": 2e4, "samples": 800},
    "bandwidth_bps": 9.25e9, "client_cpu": 0.8, "jain_fairness": None,
}  # fmt: skip

BROKEN = {
    "p99>50ms": "p99 is 61.2 ms, over 50 ms",
    "p99 >= 61200us": "p99 is 61200 us, not under 61200 us",
    "p999>1s": "p999 is 2.5 s, over 1 s",
    "mean<=2ms": "mean is 2 ms, not over 2 ms",
    "service_p99>.5ms": "service_p99 is 0.7 ms, over 0.5 ms",
    "send_lag_p99>20us": "send_lag_p99 is 25 us, over 20 us",
    "errors>0": "errors is 24, over 0",
    "errors>0.1%": "errors is 0.12 % of requests scheduled, over 0.1 %",
    "rejected>2%": "rejected is 2.5 % of requests scheduled, over 2 %",
    "goodput<1000": "goodput is 812.4 rps, under 1000 rps",
    "throughput<2000rps": "throughput is 1950 rps, under 2000 rps",
    "client_cpu>95%": "client_cpu is 97 %, over 95 %",
    "client_cpu>0.95": "client_cpu is 0.97, over 0.95",
    "fairness<0.99": "fairness is 0.98, under 0.99",
}
BROKEN_BY_BURSTS = {
    "p99>5ms": "p99 is 9 ms, over 5 ms",
    "bandwidth<10Gbit/s": "bandwidth is 9.25 Gbit/s, under 10 Gbit/s",
    "bandwidth<9300Mbit/s": "bandwidth is 9250 Mbit/s, under 9300 Mbit/s",
    "bandwidth<9.3e9": None,
    "errors>1%": "errors is 1.562 % of connections, over 1 %",
    "fairness<0.9": "fairness was not measured, so it cannot pass fairness<0.9",
    "goodput<1": "goodput was not measured, so it cannot pass goodput<1rps",
}
KEPT = (
    "p99>62ms", "p99>61200us", "p50>=1ms", "max>3s", "errors>24", "errors>=0.13%", "rejected>2.5%",
    "goodput<800", "offered<1999rps", "client_cpu>97%", "fairness<0.98", "rejected_p99>1ms",
)  # fmt: skip


@pytest.mark.parametrize(("text", "sentence"), BROKEN.items())
def test_a_condition_that_holds_is_told_with_what_was_found(text: str, sentence: str) -> None:
    assert parse_condition(text).why_failed(HTTP) == sentence
    assert parse_condition(text, "http") == parse_condition(text)


@pytest.mark.parametrize("text", KEPT)
def test_a_condition_that_does_not_hold_says_nothing(text: str) -> None:
    assert parse_condition(text).why_failed(HTTP) is None


@pytest.mark.parametrize(("text", "sentence"), BROKEN_BY_BURSTS.items())
def test_a_burst_result_is_judged_by_its_acks_and_connections(
    text: str, sentence: str | None
) -> None:
    if sentence is None:
        with pytest.raises(LoadError):
            parse_condition(text)
    else:
        assert parse_condition(text).why_failed(BURST) == sentence


@pytest.mark.parametrize("text", ["p99>50ms", "p99<1us", "service_max>1s"])
def test_without_any_answer_a_latency_condition_counts_as_broken(text: str) -> None:
    none = dict.fromkeys(LATENCY_US)
    silent = HTTP | {"latency_us": none, "service_latency_us": none}
    sentence = parse_condition(text).why_failed(silent)
    assert sentence is not None
    assert "was not measured" in sentence


LOSSES = {"wrong": 0, "timeout": 1_550, "connection": 0, "never_sent": 110}


@pytest.mark.parametrize("text", ["p99>300ms", "max>1s", "service_p50>=9s", "mean<1us"])
def test_where_many_requests_were_lost_no_latency_of_the_rest_can_pass(text: str) -> None:
    """A timeout shorter than the limit would hide every latency over it."""
    lost = HTTP | {"errors": LOSSES, "latency_us": dict.fromkeys(LATENCY_US, 2e5)}
    assert parse_condition(text).why_failed(lost) == (
        f"{parse_condition(text).name} is of the rest only: 8.3 % of requests scheduled were lost "
        f"(timeout 1,550, never_sent 110), over 1 %, so it cannot pass {parse_condition(text)}"
    )


@pytest.mark.parametrize("text", ["send_lag_p99>1s", "rejected_p99>1s", "goodput<1", "errors>9%"])
def test_losses_harm_no_condition_that_is_not_of_the_answers(text: str) -> None:
    assert parse_condition(text).why_failed(HTTP | {"errors": LOSSES}) is None


def test_up_to_one_per_cent_of_losses_a_latency_is_judged_and_rejections_are_none() -> None:
    one_per_cent = HTTP | {"errors": {"timeout": 200}, "rejected": 9_000}
    assert parse_condition("p99>62ms").why_failed(one_per_cent) is None
    assert parse_condition("p99>62ms").why_failed(HTTP | {"errors": {"timeout": 201}}) is not None
    assert parse_condition("p99>10ms").why_failed(BURST) == (
        "p99 is of the rest only: 1.6 % of connections were lost (reset 1), over 1 %, "
        "so it cannot pass p99>10ms"
    )


def test_an_invalid_result_can_fail() -> None:
    for workload, result in (("http", HTTP), ("burst", BURST)):
        asked = parse_condition(" invalid ", workload)
        assert str(asked) == "invalid"
        assert asked.why_failed(result | {"valid": True, "invalid_reasons": []}) is None
        doubted = result | {"valid": False, "invalid_reasons": ["it was late", "it was busy"]}
        assert asked.why_failed(doubted) == "the result is invalid: it was late; it was busy"


def test_a_share_of_nothing_counts_as_broken() -> None:
    sentence = parse_condition("errors>1%").why_failed(HTTP | {"scheduled": 0})
    assert sentence == "errors of requests scheduled was not measured, so it cannot pass errors>1%"


def test_a_figure_just_beyond_its_limit_is_not_rounded_onto_it() -> None:
    result = HTTP | {"latency_us": LATENCY_US | {"p99": 50_000.4}}
    assert parse_condition("p99>50ms").why_failed(result) == "p99 is 50.0004 ms, over 50 ms"


MISTAKES = {
    "": "write --fail-if 'p99>50ms'",
    "p99": "write --fail-if 'p99>50ms'",
    "p99=50ms": "write --fail-if 'p99>50ms'",
    "p99>fast": "write --fail-if 'p99>50ms'",
    "p99>-1ms": "write --fail-if 'p99>50ms'",
    "p99>50ms or p50>1ms": "write --fail-if 'p99>50ms'",
    "p99>50": "p99 needs a unit; give us, ms, s",
    "p99>50%": "unit '%' does not fit p99; give us, ms, s",
    "p99>50MS": "unit 'MS' does not fit p99; give us, ms, s",
    "errors>1ms": "unit 'ms' does not fit errors; give no unit, %",
    "goodput<5%": "unit '%' does not fit goodput; give no unit, rps",
    "bandwidth<8Gbps": "give no unit, bps, Mbit/s, Gbit/s",
    "fairness<90%": "unit '%' does not fit fairness; give no unit",
    "invalid>0": "a result is invalid or not; give invalid alone",
    "p95>50ms": "unknown figure in --fail-if 'p95'; did you mean",
    "latency>50ms": "known: bandwidth, client_cpu, errors, fairness, goodput, max",
}


@pytest.mark.parametrize(("text", "says"), MISTAKES.items())
def test_nonsense_is_one_line_that_names_what_can_be_asked(text: str, says: str) -> None:
    with pytest.raises(LoadError) as error:
        parse_condition(text)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_figure_of_the_other_workload_is_refused_before_anything_is_sent() -> None:
    for text, workload in (("goodput<1", "burst"), ("p999>1s", "burst"), ("bandwidth<1", "http")):
        with pytest.raises(LoadError, match=f"of {workload}"):
            parse_condition(text, workload)
        assert parse_condition(text)


@given(
    name=st.sampled_from(sorted(FIGURES)), op=st.sampled_from(sorted(OPERATORS)),
    value=st.floats(0, 1e9), data=st.data(),
)  # fmt: skip
def test_a_condition_and_its_opposite_never_agree(
    name: str, op: str, value: float, data: st.DataObject
) -> None:
    unit = data.draw(st.sampled_from(sorted(FIGURES[name].units)))
    opposite = {">": "<=", "<": ">=", ">=": "<", "<=": ">"}[op]
    result = HTTP | {"bandwidth_bps": 1e9}
    one, other = (Condition(name, o, value, unit).why_failed(result) for o in (op, opposite))
    if name == "bandwidth":
        assert one is not None is not other, "a request has no bandwidth: both are broken"
    else:
        assert (one is None) != (other is None)


@given(
    st.text(max_size=12)
    | st.tuples(
        st.sampled_from([*FIGURES, "p95", ""]), st.sampled_from([*OPERATORS, "=", " > "]),
        st.decimals(0, 10**9, places=3).map(str), st.sampled_from(["", "us", "%", "rps", "GB"]),
    ).map("".join)
)  # fmt: skip
def test_any_text_is_one_line_or_a_condition_that_says_itself(text: str) -> None:
    try:
        condition = parse_condition(text)
    except LoadError as error:
        said = str(error)
    else:
        said = str(condition)
        assert parse_condition(said) == condition
    assert "\n" not in said
