"""Ratios from pairs of neighbouring slices: estimates, verdicts, and when enough was measured.

What is compared here has been measured in *pairs*: two short slices, one right after the other,
so that a change of the machine's speed that is slower than a pair falls out of their ratio.
Pairs of one life of the servers make up a *trial*; the next trial has fresh processes.

Two sources of variation, both in the interval (Kalibera and Jones, "Rigorous benchmarking in
reasonable time", ISMM 2013): pairs differ within a trial, and trials differ from each other,
since a process may be lucky with its memory for the whole of its life.  The mean of a trial's
log ratios holds a share of both, so Student's t over the means of trials covers both, however
many pairs each trial has.  Logarithms, because a ratio of 2 is as far from 1 as a ratio of 1/2.

The reference of a ratio is named before anything is measured.  A reference that is picked from
the same noisy data, "the peak", is the luckiest of several medians: a server that loses nothing
seems to lose a tenth (tests/sedabench/test_paired.py shows it by simulation).

Looking again and again until something seems significant finds a difference where there is none.
So there are few looks, at numbers of trials fixed beforehand, and each has so small a share of
the error that all together have about 5 % (Pocock, Biometrika 64, 1977).

Nothing in this file reads a file, a clock or a column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

LOOKS = (8, 16, 32, 64, 128)
"""Numbers of trials after which an interval is looked at."""

LOOK_ERROR = 0.0125
"""Two-sided error of one look; of all five together about 5 %, as they share their data."""

CONFIDENCE = 0.95


class Verdict(Enum):
    """What an interval says of a ratio or of a claim about it."""

    HIGHER = "higher"
    LOWER = "lower"
    SAME = "the same within the margin"
    CONFIRMED = "confirmed"
    REFUTED = "refuted"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Estimate:
    """A ratio and its interval.  Logarithms inside, ratios (without unit) outside."""

    log_ratio: float
    log_half_width: float
    """Infinite with fewer than two trials: what trials differ by is unknown then."""
    trials: int
    pairs: int
    confidence: float

    @property
    def ratio(self) -> float:
        return math.exp(self.log_ratio)

    @property
    def low(self) -> float:
        return math.exp(self.log_ratio - self.log_half_width)

    @property
    def high(self) -> float:
        try:
            return math.exp(self.log_ratio + self.log_half_width)
        except OverflowError:
            return math.inf

    @property
    def half_width(self) -> float:
        """Half the interval's width as a share of the ratio: 0.02 is plus or minus 2 %."""
        try:
            return math.expm1(self.log_half_width)
        except OverflowError:
            return math.inf


def estimate(trials: Sequence[Sequence[float]], confidence: float = CONFIDENCE) -> Estimate:
    """The ratio that pairs measured, with a t interval over the means of trials.

    `trials` holds, for each trial, the ratios of its pairs (positive, without unit).  Trials
    without a pair say nothing and do not count.

    Raises:
        ValueError: no pair at all, or a ratio that is not positive and finite.
    """
    found = [np.asarray(pairs, dtype=np.float64) for pairs in trials if len(pairs)]
    if not found:
        raise ValueError("no pairs")
    if not all(np.isfinite(pairs).all() and (pairs > 0).all() for pairs in found):
        raise ValueError("ratios must be positive and finite")
    means = np.array([np.log(pairs).mean() for pairs in found])
    return Estimate(
        float(means.mean()),
        _half_width(means, confidence),
        len(means),
        sum(len(pairs) for pairs in found),
        confidence,
    )


def _half_width(means: np.ndarray, confidence: float) -> float:
    from scipy.stats import t

    n = len(means)
    if n < 2:
        return math.inf
    quantile = float(t.ppf((1 + confidence) / 2, n - 1))
    return quantile * float(means.std(ddof=1)) / math.sqrt(n)


def at_look(trials: Sequence[Sequence[float]]) -> Estimate | None:
    """The estimate of the last look that these trials reach; None before the first.

    Trials beyond that look wait for the next one, or the looks would be more than were planned.
    """
    reached = [n for n in LOOKS if n <= len(trials)]
    return estimate(trials[: reached[-1]], 1 - LOOK_ERROR) if reached else None


def compared(found: Estimate, margin: float) -> Verdict:
    """Is the ratio over 1, under 1, or 1 within `margin` (0.05: from 1/1.05 to 1.05)?

    A difference that is surely smaller than the margin is called the same, even where it is
    surely not zero: that is what a margin is for.  The equivalence is that of two one-sided
    tests (Schuirmann 1987) at half the error of the interval each.
    """
    limit = math.log1p(margin)
    if abs(found.log_ratio) + found.log_half_width <= limit:
        return Verdict.SAME
    if found.low > 1:
        return Verdict.HIGHER
    if found.high < 1:
        return Verdict.LOWER
    return Verdict.UNDECIDED


def claimed(found: Estimate, at_least: float) -> Verdict:
    """A claim that a ratio is at least so much."""
    if found.low >= at_least:
        return Verdict.CONFIRMED
    if found.high < at_least:
        return Verdict.REFUTED
    return Verdict.UNDECIDED


def trials_needed(found: Estimate, log_half_width: float) -> int | None:
    """About how many trials in all an interval of this half-width takes; None if nobody knows.

    It shrinks with the square root of their number; that the quantile of t shrinks as well is
    left aside, which errs on the safe side.
    """
    if not (0 < log_half_width < math.inf) or not math.isfinite(found.log_half_width):
        return None
    return max(found.trials, math.ceil(found.trials * (found.log_half_width / log_half_width) ** 2))
