from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from loadgen.demand.arrivals import FORMS, MOST_S, duration_s, schedule
from loadgen.errors import LoadError

UNLIKELY = 1e-3
"""Seeds are fixed, so a p-value is always the same; below this one, the distribution is wrong."""


def rate_between(times: NDArray[np.int64], begin_s: float, end_s: float) -> float:
    first, behind = np.searchsorted(times, [begin_s * 1e9, end_s * 1e9])
    return float(behind - first) / (end_s - begin_s)


def is_poisson_count(count: float, mean: float) -> bool:
    return bool(2 * min(stats.poisson.cdf(count, mean), stats.poisson.sf(count - 1, mean)) > 1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_the_gaps_of_poisson_are_exponential(seed: int) -> None:
    times = schedule("poisson", 2000, 20, seed)
    gaps_s = np.diff(times, prepend=0) / 1e9
    assert stats.kstest(gaps_s, "expon", args=(0, 1 / 2000)).pvalue > UNLIKELY


@pytest.mark.parametrize("seed", range(5))
def test_the_gaps_of_poisson_do_not_depend_on_the_gap_before(seed: int) -> None:
    gaps = np.diff(schedule("poisson", 2000, 20, seed))
    assert stats.spearmanr(gaps[:-1], gaps[1:]).pvalue > UNLIKELY


def test_the_number_of_poisson_arrivals_is_random_with_a_variance_equal_to_its_mean() -> None:
    counts = np.array([len(schedule("poisson", 100, 1, seed)) for seed in range(2000)])
    assert stats.ks_1samp(counts + np.random.default_rng(1).random(2000), _smooth).pvalue > UNLIKELY
    assert 0.9 < counts.var() / counts.mean() < 1.1


def _smooth(value: NDArray[np.float64]) -> NDArray[np.float64]:
    """The Poisson distribution function of mean 100, made continuous by a uniform summand."""
    whole = np.floor(value)
    return np.asarray(
        stats.poisson.cdf(whole - 1, 100) + (value - whole) * stats.poisson.pmf(whole, 100)
    )


def test_constant_arrivals_are_evenly_spaced_from_zero_and_do_not_drift() -> None:
    times = schedule("constant", 3000, 100, 1)
    assert len(times) == 300_000
    assert times[0] == 0
    assert np.abs(times - np.arange(300_000) * 1e9 / 3000).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_a_step_multiplies_the_rate_for_as_long_as_it_says(seed: int) -> None:
    times = schedule("step:0.5x4,2x2,0x1,1x4", 1000, 99, seed)
    for begin_s, end_s, rate in ((0, 4, 500), (4, 6, 2000), (6, 7, 0), (7, 11, 1000)):
        found = rate_between(times, begin_s, end_s)
        assert is_poisson_count(found * (end_s - begin_s), rate * (end_s - begin_s))
    assert times[-1] < 11e9


@pytest.mark.parametrize("seed", range(5))
def test_a_spike_multiplies_the_rate_between_its_two_ends(seed: int) -> None:
    times = schedule("spike:4,3,2", 1000, 10, seed)
    for begin_s, end_s, rate in ((0, 3, 1000), (3, 5, 4000), (5, 10, 1000)):
        found = rate_between(times, begin_s, end_s)
        assert is_poisson_count(found * (end_s - begin_s), rate * (end_s - begin_s))


def test_arrivals_within_a_step_are_poisson() -> None:
    times = schedule("step:1x5,3x5", 1000, 1, 7)
    within = times[np.searchsorted(times, 5e9) :] / 1e9
    assert stats.kstest(within, "uniform", args=(5, 5)).pvalue > UNLIKELY
    assert stats.kstest(np.diff(within), "expon", args=(0, 1 / 3000)).pvalue > UNLIKELY


def test_a_spike_may_begin_at_once_and_last_to_the_end() -> None:
    times = schedule("spike:2,0,5", 1000, 5, 1)
    assert is_poisson_count(len(times), 10_000)


durations_s = st.floats(0.01, 5)
rates = st.floats(10, 5000)
factors = st.floats(0, 10).map(lambda factor: round(factor, 3))


@st.composite
def steps(draw: st.DrawFn) -> str:
    pieces = draw(st.lists(st.tuples(factors, durations_s), min_size=1, max_size=5))
    return "step:" + ",".join(f"{factor}x{lasts_s}" for factor, lasts_s in pieces)


@st.composite
def any_arrivals(draw: st.DrawFn) -> tuple[str, float]:
    duration = draw(durations_s)
    spike_s = duration * draw(st.floats(0.01, 0.5))
    spike = f"spike:{draw(factors)},{duration * draw(st.floats(0, 0.49))},{spike_s}"
    return draw(st.sampled_from(["constant", "poisson", spike, draw(steps())])), duration


@settings(max_examples=60, deadline=None)
@given(any_arrivals(), rates, st.integers(0, 2**64))
def test_every_schedule_ascends_in_whole_nanoseconds_and_ends_in_time(
    asked: tuple[str, float], rate: float, seed: int
) -> None:
    arrivals, default_s = asked
    try:
        times = schedule(arrivals, rate, default_s, seed)
    except LoadError:
        reject()  # by chance there is no request
    assert times.dtype == np.int64
    assert times[0] >= 0
    assert (np.diff(times) >= 0).all()
    assert times[-1] < round(duration_s(arrivals, default_s) * 1e9)
    assert (times == schedule(arrivals, rate, default_s, seed)).all()


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_a_longer_schedule_begins_like_a_shorter_one(arrivals: str) -> None:
    short, long = (schedule(arrivals, 1000, lasts_s, 1) for lasts_s in (3, 30))
    assert (long[: len(short)] == short).all()


def test_another_seed_is_another_schedule() -> None:
    assert schedule("poisson", 1000, 1, 1)[0] != schedule("poisson", 1000, 1, 2)[0]


def test_only_steps_and_traces_have_a_duration_of_their_own(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    trace.write_text("1\n2.5\n")
    assert duration_s("step:1x2,3x0.5", 99) == 2.5
    assert duration_s("spike:2,1,1", 99) == 99
    assert duration_s("poisson", 99) == 99
    assert duration_s(f"trace:{trace}", 99) == pytest.approx(2.5, abs=2e-9)
    assert duration_s(f"trace:{trace}", 99) > 2.5


@pytest.mark.parametrize(
    "text",
    [
        "0.5\n0.5\n2.000000001\n",
        "seconds\n0.5\n0.5\n2.000000001\n",
        "t,user\r\n0.5,ann\r\n0.5,bob\r\n2.000000001,\r\n\r\n",
        "\ufeff0.5\n0.5\n\n2.000000001",
        "# who: 2 people\n\n \ntime (s),user\n0.5 # ann\n  # later\n0.5\n2.000000001 # bob, 3",
    ],
)
def test_a_trace_is_taken_as_it_is_whatever_the_rate(tmp_path: Path, text: str) -> None:
    trace = tmp_path / "trace"
    trace.write_text(text, newline="")
    times = schedule(f"trace:{trace}", 0, 0, 0)
    assert times.dtype == np.int64
    assert times.tolist() == [500_000_000, 500_000_000, 2_000_000_001]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1\n3\n2\n", r"line 3: 2 s comes after 3 s"),
        ("t\n1\nx,1\n", r"line 3: 'x' is not a time"),
        ("O.1\n0.2\n", r"line 1: 'O.1' is not a time in seconds"),
        ("# times\nO.1\n0.2\n", r"line 2: 'O.1' is not a time"),
        ("--\n0.2\n", r"line 1: '--' is not a time"),
        (",ann\n0.2\n", r"line 1: '' is not a time"),
        ("t\nseconds\n1\n", r"line 2: 'seconds' is not a time"),
        ("# nothing\n", "has 0 times"),
        ("1\n-2\n", r"line 2: -2 s is not from 0"),
        ("1\nnan\n", r"line 2: nan s is not from 0"),
        ("1\ninf\n", r"line 2: inf s is not from 0"),
        ("1700000000.5\n", r"line 1: 1\.7e\+09 s is not from 0 to 1e\+06 s; count from the start"),
        ("", "has 0 times"),
        ("t,user\n", "has 0 times"),
        (b"1\n\xff\n", "UTF-8"),
    ],
)
def test_a_trace_that_cannot_be_is_refused_with_the_line(
    tmp_path: Path, text: str | bytes, why: str
) -> None:
    trace = tmp_path / "trace"
    trace.write_bytes(text if isinstance(text, bytes) else text.encode())
    for ask in (schedule, lambda arrivals, *_: duration_s(arrivals, 1)):
        with pytest.raises(LoadError, match=why) as caught:
            ask(f"trace:{trace}", 1, 1, 1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("absent", "No such file"),
        ("", "is not a file"),
        ("\0", "no name of a file"),
    ],
)
def test_a_trace_that_cannot_be_read_is_refused(tmp_path: Path, name: str, why: str) -> None:
    with pytest.raises(LoadError, match=why):
        schedule(f"trace:{tmp_path}/{name}", 1, 1, 1)


@pytest.mark.parametrize(
    ("arrivals", "why"),
    [
        ("poison", "did you mean 'poisson'"),
        ("steps:1x1", "did you mean 'step'"),
        ("", "known: constant, poisson, spike, step, trace"),
        ("poisson:", "must have the form poisson"),
        ("constant:5", "must have the form constant"),
        *(
            (text, "must have the form step:F1xS1")
            for text in ("step", "step:", "step:1", "step:x")
        ),
        *((f"step:{text}", "form step") for text in ("1x2,", "1x2x3", "-1x2", "infx2", "nanx2")),
        *((f"step:1x{text}", "must last above 0") for text in ("0", "1e7")),
        ("step:1x9e5,1x9e5", "the sum of all steps must last"),
        *((f"spike:{text}", "form spike") for text in ("1", "1,2", "1,2,3,4", "a,b,c", "1,-1,1")),
        ("spike:2,1,0", "the spike must last above 0"),
        ("spike:2,9,2", "the spike ends at 11 s and the schedule at 10 s"),
        ("trace", "must have the form trace:FILE"),
        ("trace:", "must have the form trace:FILE"),
        ("step:0x5", "no request falls into step:0x5"),
    ],
)
def test_arrivals_that_cannot_be_are_refused_in_one_line(arrivals: str, why: str) -> None:
    with pytest.raises(LoadError, match=why) as caught:
        schedule(arrivals, 1000, 10, 1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "step:1x1", "spike:2,0.1,0.1"])
@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), float("-inf")])
def test_a_rate_that_cannot_be_is_refused(arrivals: str, rate: float) -> None:
    with pytest.raises(LoadError, match="rate must be above 0"):
        schedule(arrivals, rate, 1, 1)


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "spike:2,0.1,0.1"])
@pytest.mark.parametrize("lasts_s", [0, -1, 1e-300, float("nan"), float("inf"), 2 * MOST_S])
def test_a_duration_that_cannot_be_is_refused(arrivals: str, lasts_s: float) -> None:
    for ask in (lambda: schedule(arrivals, 1, lasts_s, 1), lambda: duration_s(arrivals, lasts_s)):
        with pytest.raises(LoadError, match="duration must last above 0"):
            ask()


@pytest.mark.parametrize("arrivals", ["constant", "poisson", "step:1e9x1000", "spike:1e9,0,1"])
def test_more_requests_than_memory_is_for_are_refused(arrivals: str) -> None:
    with pytest.raises(LoadError, match="more than 100000000: ask for a lower rate"):
        schedule(arrivals, 1e6, 1000, 1)


@pytest.mark.parametrize(("rate", "lasts_s"), [(1e-6, 1), (1e-300, 1), (1000, 1e-9)])
def test_a_schedule_without_any_request_is_refused(rate: float, lasts_s: float) -> None:
    with pytest.raises(LoadError, match="no request falls into poisson"):
        schedule("poisson", rate, lasts_s, 1)


def test_a_constant_rate_has_its_first_request_however_low_it_is() -> None:
    assert schedule("constant", 1e-6, 1, 1).tolist() == [0]
    assert schedule("constant", 1e-300, 1, 1).tolist() == [0]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(LoadError, match="seed must not be negative"):
        schedule("poisson", 1, 1, -1)


def test_every_kind_says_how_it_is_written() -> None:
    assert all(form.partition(":")[0] == kind for kind, form in FORMS.items())
