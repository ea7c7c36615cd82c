"""Many cells of two runs at once: in which does B differ from A?  A permutation test.

The question.  Each run measured every cell once in each of its repeats (blocks
of trials, `experiments.plan.blocked_order`).  If nothing differs between A and B, it is
chance alone which repeats came to be A's.  So: take the repeats of both runs,
n_a + n_b of them, deal them out anew, whole repeats with all their cells, and
compute for every cell how far the two sides are apart beside their noise
(Welch's t, of logarithms where all values are positive).  Of each dealing only
the largest t of all cells counts.  The adjusted p of a cell is the share of
dealings whose largest t reaches its own.  This is the step "maxT" of P. H.
Westfall and S. S. Young, "Resampling-Based Multiple Testing" (1993), chapter 2.

What that gives.  With probability 95 % no cell of the whole table is called
wrongly, whatever the noise looks like and however the cells of a repeat hang
together: no distribution is assumed, only that the repeats of two equal runs
could be swapped.  And the smallest p there is depends on the repeats alone, not
on the number of cells: 2/70 with 4 against 4, 2/252 with 5 against 5.  A test
of each cell by itself that ranks or permutes cannot do that: its 2/252 times 66
cells (Holm, 1979) is over 0.5, so nothing could ever be called.  3 against 3 has
2/20, and 3 against 4 has 2/35: nothing can be told (`enough`).

What it costs.  In noise that jumps, a cell may be parted by chance, so that one
parted in truth is not called: the test then says nothing where the eye sees a
difference.  More repeats help (10 of each).

Simulated: 66 cells, 600 comparisons of equal runs each (150 where a star is),
noise of the logarithms, `enough` left out.  The share of comparisons with a
wrong cell anywhere, by this test / by Welch's t-test of each cell with Holm's
method, which this test replaced:

    noise                            3 v 3        4 v 4        5 v 5       10 v 10
    normal, 5 %                    0.00/0.01    0.02/0.03    0.06/0.04    0.04/0.03
    two values, 1 and 0.7          0.00/0.86    0.02/0.39    0.05/0.12    0.04/0.15
    the same in half the cells     0.00/0.66    0.02/0.25    0.04/0.06    0.04/0.07
    heavy tails, t with 2 df       0.00/0.01    0.04/0.01    0.04/0.00    0.03/0.00*
    10 % fall to a half            0.00/0.07    0.02/0.02    0.05/0.01    0.07/0.01*
    whole repeats fall to 0.7      0.00/0.03    0.04/0.01    0.03/0.00    0.04/0.00*

(5 % of 600 has a standard error of 0.9 %, of 150 of 1.8 %.)  And the share of
the cells found that were really slower, where a third of the 66 were:

    noise                          30 % slower: 4 v 4   5 v 5  10 v 10   half: 4 v 4   5 v 5
    normal, 5 %                                 0.91    1.00    1.00           1.00    1.00
    two values, 1 and 0.7                       0.00    0.01    0.49           0.01    0.05
    the same in half the cells                  0.09    0.46    0.77           0.40    0.66
    heavy tails, t with 2 df                    0.53    0.79    0.91           0.85    0.95
    10 % fall to a half                         0.39    0.36    0.70           0.46    0.61
    whole repeats fall to 0.7                   0.24    0.50    0.98           0.86    0.95

Of normal noise Welch with Holm finds the same (0.90, 1.00, 1.00).

Nothing in this file knows what a cell is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt

FAMILY_WISE = 0.05
"""Probability, at most, of a wrong verdict anywhere in a family."""
FEWEST = 3
"""Repeats of a side that a cell needs."""
DEALINGS = 9999
"""All of them up to here (7 against 7); beyond, so many at random and the one that was."""
_SEED = 2001

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class FamilyTest:
    """What came out for each cell, in their order."""

    p_adjusted: tuple[float, ...]
    visible: tuple[float, ...]
    """How large a difference of means would have been called; infinite where none."""


def enough(n_a: int, n_b: int) -> bool:
    """Can so many repeats tell anything?  4 against 4 and 3 against 5 can, 3 against 4 cannot."""
    return min(n_a, n_b) >= FEWEST and 2 / math.comb(n_a + n_b, n_a) <= FAMILY_WISE


def permutation_test(a: Sequence[Values], b: Sequence[Values]) -> FamilyTest:
    """Test every cell; `a[i]` and `b[i]` are cell i, a value for each repeat of its run.

    All of `a` have the same length, all of `b` too; the k-th value of each is of
    the k-th repeat, and NaN where that is missing.  Every cell should have
    `enough` values.
    """
    if not len(a):
        return FamilyTest((), ())
    n_a, n_b = len(a[0]), len(b[0])
    values = np.column_stack([np.concatenate(pair) for pair in zip(a, b, strict=True)])
    t, error = _welch(_dealings(n_a, n_b), values)
    largest = t.max(axis=1)
    reached = largest[:, np.newaxis] >= t[0] * (1 - 1e-9)  # the same dealing mirrored is equal
    calls = np.sort(largest)[::-1][math.floor(FAMILY_WISE * len(largest))]
    return FamilyTest(tuple(reached.mean(axis=0).tolist()), tuple((calls * error[0]).tolist()))


def _dealings(n_a: int, n_b: int) -> Values:
    """One a row, 1 for each repeat that is dealt to A; the first is the one that was."""
    together = n_a + n_b
    if math.comb(together, n_a) <= DEALINGS:
        chosen = np.array(list(combinations(range(together), n_a)))
    else:
        source = np.random.default_rng(_SEED)
        dealt = np.tile(np.arange(together), (DEALINGS + 1, 1))
        chosen = np.vstack([dealt[:1], source.permuted(dealt[1:], axis=1)])[:, :n_a]
    rows = np.zeros((len(chosen), together))
    np.put_along_axis(rows, chosen, 1.0, axis=1)
    return rows


def _welch(to_a: Values, values: Values) -> tuple[Values, Values]:
    """|t| and the standard error of the difference, of each dealing (row) and cell (column).

    B. L. Welch, Biometrika 34 (1947), 28-35.  t is 0 where the means are equal or
    a side has fewer than two values, infinite where only its sides' noise is 0.
    """
    there = (~np.isnan(values)).astype(float)
    centred = np.nan_to_num(values - np.nanmean(values, axis=0))
    width = np.sqrt((centred**2).sum(axis=0) / there.sum(axis=0))
    means, parts, few = [], [], np.zeros((len(to_a), values.shape[1]), bool)
    for side in (to_a, 1 - to_a):
        n = side @ there
        few |= n < 2
        mean = (side @ centred) / np.maximum(n, 1)
        squares = side @ centred**2 - n * mean**2
        means.append(mean)
        parts.append(np.maximum(squares, 0) / np.maximum(n - 1, 1) / np.maximum(n, 1))
    apart = np.abs(means[0] - means[1])
    error = np.sqrt(parts[0] + parts[1])
    rounding = 1e-7 * width  # what is left of a variance of 0 after the subtraction
    error[error <= rounding] = 0
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(few | (apart <= rounding), 0.0, apart / error)
    return t, error
