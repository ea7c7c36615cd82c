"""The rules by which a difference is found, proved by simulation with a fixed seed.

Noise as it was measured on the project's kind of machine: two neighbouring slices of a second
differ by a standard deviation of 0.16 in their logarithm, trials by 0.01 more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pytest

from sedabench.analysis.paired import (
    LOOK_ERROR,
    LOOKS,
    Verdict,
    at_look,
    claimed,
    compared,
    estimate,
    trials_needed,
)

Random = np.random.Generator
PAIR_SD, TRIAL_SD = 0.16, 0.01


@pytest.fixture
def random() -> Random:
    return np.random.default_rng(2001)


def experiment(
    random: Random, ratio: float, trials: int, pairs: int, heavy: bool = False
) -> list[list[float]]:
    """Ratios of pairs as a machine with two levels of noise would give them."""
    lucky = random.normal(0, TRIAL_SD, (trials, 1))
    noise = random.standard_t(3, (trials, pairs)) / math.sqrt(3) if heavy else (
        random.normal(0, 1, (trials, pairs))
    )  # fmt: skip
    found: list[list[float]] = (ratio * np.exp(lucky + PAIR_SD * noise)).tolist()
    return found


@pytest.mark.parametrize("heavy", [False, True], ids=["normal", "heavy-tailed"])
@pytest.mark.parametrize(("trials", "pairs"), [(2, 8), (3, 8), (4, 4), (8, 1), (16, 8)])
def test_the_interval_holds_the_truth_as_often_as_it_says(
    random: Random, trials: int, pairs: int, heavy: bool
) -> None:
    repeats = 1000
    held = 0
    for _ in range(repeats):
        found = estimate(experiment(random, 1.1, trials, pairs, heavy))
        held += found.low <= 1.1 <= found.high
    assert 0.93 <= held / repeats <= 0.98  # heavy tails widen it a little; 3 sigma are 0.02


def test_pairs_of_one_trial_do_not_pass_for_trials(random: Random) -> None:
    """A process that is lucky for its whole life cannot be averaged away by more of its pairs."""
    widths = [estimate(experiment(random, 1, 8, pairs)).log_half_width for pairs in (4000, 16000)]
    least = TRIAL_SD / math.sqrt(8)
    assert min(widths) > least
    assert estimate(experiment(random, 1, 1, 50)).log_half_width == math.inf


def looks(trials: list[list[float]]) -> Iterator[Verdict]:
    for n in LOOKS:
        found = at_look(trials[:n])
        assert found is not None
        assert found.trials == n
        yield compared(found, margin=0)


def test_looking_five_times_finds_a_difference_that_is_not_there_in_one_case_of_twenty(
    random: Random,
) -> None:
    repeats = 600
    wrong = sum(
        any(verdict != Verdict.UNDECIDED for verdict in looks(experiment(random, 1, LOOKS[-1], 4)))
        for _ in range(repeats)
    )
    assert 0.02 <= wrong / repeats <= 0.07  # of 2,000 it was 0.044: the looks share their data


def test_looking_after_every_trial_would_be_wrong_far_more_often(random: Random) -> None:
    """Why there are looks: the same data, asked at 95 % after each of 64 trials."""
    wrong = 0
    for _ in range(50):
        trials = experiment(random, 1, 64, 4)
        wrong += any(
            not found.low <= 1 <= found.high
            for found in (estimate(trials[:n]) for n in range(4, 65))
        )
    assert wrong / 50 > 0.2


def test_a_real_difference_of_two_percent_is_found_with_the_right_sign(random: Random) -> None:
    said = []
    for _ in range(100):
        trials = experiment(random, 1.02, LOOKS[-1], 16)
        said.append(next((v for v in looks(trials) if v != Verdict.UNDECIDED), Verdict.UNDECIDED))
    assert said.count(Verdict.LOWER) <= 2
    assert said.count(Verdict.HIGHER) >= 90


def test_a_reference_named_beforehand_has_no_bias_and_a_picked_peak_has(random: Random) -> None:
    """A server that loses nothing, at 7 loads, five repeats of each, noise of single windows."""
    named, picked = [], []
    for _ in range(1000):
        rates = np.exp(random.normal(0, PAIR_SD, (7, 5)))
        medians = np.median(rates, axis=1)
        picked.append(medians[-1] / medians[:-1].max())
        named.append(estimate([[over / at] for over, at in zip(rates[-1], rates[3], strict=True)]))
    assert np.mean(picked) < 0.92
    assert abs(float(np.mean([found.log_ratio for found in named]))) < 0.01
    assert np.mean([found.low <= 1 <= found.high for found in named]) == pytest.approx(
        0.95, abs=0.015
    )


def test_no_look_before_the_first_and_none_in_between(random: Random) -> None:
    trials = experiment(random, 1, 40, 2)
    assert at_look(trials[: LOOKS[0] - 1]) is None
    found = at_look(trials)
    assert found is not None
    assert (found.trials, found.confidence) == (32, 1 - LOOK_ERROR)
    assert found == at_look(trials[:32])


@pytest.mark.parametrize(
    ("ratios", "margin", "verdict"),
    [
        ([1.10, 1.11, 1.09, 1.10], 0.05, Verdict.HIGHER),
        ([0.90, 0.91, 0.89, 0.90], 0.05, Verdict.LOWER),
        ([1.00, 1.01, 0.99, 1.00], 0.05, Verdict.SAME),
        ([1.02, 1.021, 1.019, 1.02], 0.05, Verdict.SAME),  # not 1, and surely within the margin
        ([1.02, 1.021, 1.019, 1.02], 0.01, Verdict.HIGHER),
        ([0.8, 1.25, 0.7, 1.4], 0.05, Verdict.UNDECIDED),
    ],
)
def test_verdicts_of_a_comparison(ratios: list[float], margin: float, verdict: Verdict) -> None:
    assert compared(estimate([[ratio] for ratio in ratios]), margin) == verdict


@pytest.mark.parametrize(
    ("ratios", "verdict"),
    [
        ([0.95, 0.96, 0.94, 0.95], Verdict.CONFIRMED),
        ([0.80, 0.81, 0.79, 0.80], Verdict.REFUTED),
        ([0.85, 0.95, 0.80, 1.0], Verdict.UNDECIDED),
    ],
)
def test_verdicts_of_a_claim(ratios: list[float], verdict: Verdict) -> None:
    assert claimed(estimate([[ratio] for ratio in ratios]), at_least=0.9) == verdict


def test_how_long_it_would_take_is_about_right(random: Random) -> None:
    found = estimate(experiment(random, 1, 16, 4))
    needed = trials_needed(found, found.log_half_width / 2)
    assert needed == 64
    reached = estimate(experiment(random, 1, needed, 4))
    assert reached.log_half_width < found.log_half_width * 0.75
    assert trials_needed(estimate([[1.0]]), 0.01) is None


def test_what_is_not_a_ratio_is_refused() -> None:
    for trials in ([], [[]], [[0.0]], [[math.nan]], [[-1.0]], [[math.inf]]):
        with pytest.raises(ValueError, match=r"pairs|ratios"):
            estimate(trials)
