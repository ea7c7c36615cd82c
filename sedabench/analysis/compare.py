"""Two runs of one experiment, cell by cell: which server got faster, which slower?

A cell is a server at a level.  For every cell that both runs have: the medians
over the valid trials, their ratio B/A with its 95 % bootstrap interval
(`stats.ratio_of_medians`), and a verdict.

How a verdict is reached.  A test of each cell at 5 % would find a difference
in two of 42 cells of a run that is compared with its own repetition.  So all
cells of a comparison, over all its metrics, are tested together
(`sedabench.analysis.family_test`, a permutation test of whole repeats): with probability
95 % no verdict of the whole table is wrong, whatever the noise looks like.
"faster" and "slower" need an adjusted p of at most 5 % and an interval that
does not reach 1; anything else is "no difference seen", which is not the same
as "no difference": `Comparison.visible` tells how large one must be.  Nothing
is said of a cell with too few valid repeats to tell, 3 against 3 or 4; 4
against 4 and 3 against 5 are enough.

What no test here can see: repeats of one run share a machine and an hour.  If
the machine itself was slower on the second day, "slower" is true of the run
and false of the server.  A run of A repeated on the second day tells.

Nothing in this file prints or exits; `sedabench.cli.compare` does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from sedabench.analysis.family_test import FAMILY_WISE, enough, permutation_test
from sedabench.analysis.figure1 import servers_of
from sedabench.analysis.stats import Interval, ratio_of_medians
from sedabench.errors import DamagedRunError, UserError, unknown
from sedabench.results.folder import Run

Level = int | float | str
Key = tuple[str, str, tuple[Level, ...]]
"""Metric, server, level."""
Values = npt.NDArray[np.float64]
Verdict = Literal[
    "faster", "slower", "higher", "lower", "no difference seen", "too few repeats to tell"
]


@dataclass(frozen=True)
class Question:
    """What is compared of an experiment when nobody says otherwise."""

    levels: tuple[str, ...]
    """Columns that make a level."""
    metrics: tuple[str, ...]
    same: str | None = None
    """The setting without which two runs have nothing to compare."""
    offered: str | None = None
    """The column that should agree between two cells of the same level."""
    phase: str | None = None
    """Only trials of this phase are compared."""

    @classmethod
    def recorded(cls, said: Mapping[str, Any]) -> Self:
        """As a manifest has it.  Raises KeyError or TypeError if it is something else."""
        lists = {name: tuple(map(str, said[name])) for name in ("levels", "metrics")}
        if not all(lists.values()):
            raise TypeError("no level or no metric")
        return cls(**{**said, **lists})


METRICS = ("goodput_rps", "throughput_rps", "bandwidth_bps", "latency_p99_us", "ack_p99_us")
"""What is compared of an experiment that does not say, where a run has it."""


def question_of_columns(run: Run, level: str) -> Question:
    """What can be compared of any run.

    Raises:
        UserError: it has no such column, or none of `METRICS`.
    """
    metrics = tuple(name for name in METRICS if name in run.manifest["columns"])
    if level not in run.manifest["columns"] or not metrics:
        raise UserError(
            f"{run.path} is a run of {run.manifest['experiment']}, of which it is not known what "
            "is compared; name a column with --metric"
        )
    return Question((level,), metrics)


OFFERED_APART = 0.05
"""From this share on the offered load of a level differs, and is warned of."""

HIGHER_IS_BETTER = ("_bps", "_rps", "bursts_per_s")
LOWER_IS_BETTER = ("_us",)
"""Endings of metrics; of any other it is not said which way is better."""


@dataclass(frozen=True)
class CellComparison:
    """One server at one level: the medians of a metric in both runs, and what follows."""

    metric: str
    server: str
    level: tuple[Level, ...]
    a: float
    b: float
    n_a: int
    n_b: int
    ratio: Interval | None
    """B/A; None where a value of A is not positive."""
    p_adjusted: float | None
    """None with too few repeats to tell."""
    verdict: Verdict

    @property
    def key(self) -> Key:
        return self.metric, self.server, self.level


@dataclass(frozen=True)
class Comparison:
    """All cells of two runs, and those that only one of them measured.

    `a` and `b` hold the trials that were compared, and the invalid ones among them.
    """

    a: Run
    b: Run
    levels: tuple[str, ...]
    metrics: tuple[str, ...]
    cells: tuple[CellComparison, ...]
    only_a: tuple[Key, ...]
    only_b: tuple[Key, ...]
    left_out_a: int
    left_out_b: int
    visible: Mapping[str, float]
    """metric -> how large a difference, as a share of A, must be for the middle cell to show it."""
    differences: tuple[str, ...]
    """What is not the same in the two manifests, each as "what: in A / in B"."""

    def slower_than(self, percent: float) -> list[CellComparison]:
        """Cells that are slower by more than `percent` of A, beyond the noise of the repeats.

        Those with the verdict "slower" whose whole interval is: where more is
        better its upper limit is under 1 - percent/100, where less is better
        its lower limit is over 1 + percent/100.  Cells without a ratio are not judged.
        """
        share = percent / 100
        return [
            cell
            for cell in self.cells
            if cell.verdict == "slower"
            and cell.ratio is not None
            and (cell.ratio.high < 1 - share if better(cell.metric) > 0
                 else cell.ratio.low > 1 + share)
        ]  # fmt: skip

    def lost(self) -> list[Key]:
        """What A measured and B did not, or with so few valid repeats that it cannot be judged.

        A server that crashes, or never answers, is not slower: it is here.
        """
        return [
            *self.only_a,
            *(
                cell.key for cell in self.cells
                if cell.verdict == "too few repeats to tell" and cell.n_b < cell.n_a
            ),
        ]  # fmt: skip


def better(metric: str) -> int:
    """1 when more of it is better, -1 when less is, 0 when that is not known."""
    if metric.endswith(HIGHER_IS_BETTER):
        return 1
    return -1 if metric.endswith(LOWER_IS_BETTER) else 0


def compare(a: Run, b: Run, question: Question, metrics: tuple[str, ...] = ()) -> Comparison:
    """Compare two runs of one experiment, by `metrics` or by those of its question.

    Raises:
        UserError: the experiments differ, a metric is not a number that both
            have, or no cell has a valid trial in both.
    """
    experiment = a.manifest["experiment"]
    if experiment != b.manifest["experiment"]:
        raise UserError(
            f"{a.path} is a run of {experiment} and {b.path} of {b.manifest['experiment']}; "
            "compare two runs of one experiment"
        )
    if question.same is not None:
        of_a, of_b = (run.manifest["parameters"].get(question.same) for run in (a, b))
        if of_a != of_b:
            raise UserError(
                f"the {question.same} of {a.path} is {of_a} and that of {b.path} {of_b}; "
                f"compare two runs of one {question.same}"
            )
    chosen = tuple(dict.fromkeys(metrics)) or question.metrics
    for metric in chosen:
        _check_metric(metric, a, b)
    a, b = _of_phase(a, question.phase), _of_phase(b, question.phase)
    both = set(a.trials.columns) & set(b.trials.columns)
    if not {"server", *question.levels} <= both:
        raise UserError(
            f"{a.path} and {b.path} do not both have the columns server, "
            f"{', '.join(question.levels)}; compare runs of one version of sedabench"
        )
    pairs, only_a, only_b = [], [], []
    for metric in chosen:
        in_a, in_b = (_samples(run, question.levels, metric) for run in (a, b))
        pairs += [(metric, *key, in_a[key], in_b[key]) for key in in_a if key in in_b]
        only_a += [(metric, *key) for key in in_a if key not in in_b]
        only_b += [(metric, *key) for key in in_b if key not in in_a]
    if not pairs:
        raise UserError(
            f"{a.path} and {b.path} have no server and level in common that both measured "
            f"({', '.join(chosen)}, valid trials); run them with the same --server and levels"
        )
    cells, visible = _judge(pairs)
    return Comparison(
        a, b, question.levels, chosen, cells, tuple(only_a), tuple(only_b),
        int((~a.trials["valid"]).sum()), int((~b.trials["valid"]).sum()), visible,
        (*_manifest_differences(a, b), *_offered_differences(a, b, question)),
    )  # fmt: skip


def _check_metric(metric: str, *runs: Run) -> None:
    for run in runs:
        numeric = [
            name for name, column in run.manifest["columns"].items()
            if column["type"] in ("int", "float")
        ]  # fmt: skip
        if metric not in numeric:
            error = unknown("metric", metric, numeric)
            raise UserError(f"{error} (of the numbers in {run.path / 'trials.csv'})")


def _of_phase(run: Run, phase: str | None) -> Run:
    if phase is None or "phase" not in run.trials:
        return run
    return replace(run, trials=run.trials[run.trials["phase"] == phase])


def _samples(
    run: Run, levels: tuple[str, ...], metric: str
) -> dict[tuple[str, tuple[Level, ...]], Values]:
    """The metric in each repeat of each (server, level) that has a valid one, as in a table.

    All have the length of the run's repeats; NaN where a trial is missing or invalid.
    """
    if not len(run.trials):
        return {}
    try:
        rank = {server: number for number, server in enumerate(servers_of(run))}
    except (KeyError, TypeError):
        raise DamagedRunError(
            f"{run.path} is damaged: its manifest.json does not name its servers; restore it"
        ) from None
    trials = run.trials.sort_values("trial")
    cells = trials.groupby(["server", *levels])
    repeat = cells.cumcount()
    usable = trials["valid"] & trials[metric].notna()
    found: dict[tuple[str, tuple[Level, ...]], Values] = {}
    for key, part in cells:
        values = np.full(int(repeat.max()) + 1, np.nan)
        kept = part.index[usable[part.index]]
        values[repeat[kept]] = part.loc[kept, metric].to_numpy(float)
        if len(kept):
            found[str(key[0]), tuple(_plain(value) for value in key[1:])] = values
    return {
        key: found[key]
        for key in sorted(found, key=lambda key: (rank.get(key[0], len(rank)), key))
    }  # fmt: skip


def _plain(value: Any) -> Level:
    plain: Level = value.item() if hasattr(value, "item") else value
    return plain


def _judge(
    pairs: list[tuple[str, str, tuple[Level, ...], Values, Values]],
) -> tuple[tuple[CellComparison, ...], dict[str, float]]:
    """All cells with their verdicts, and `Comparison.visible`."""
    there = [(a[~np.isnan(a)], b[~np.isnan(b)]) for *_, a, b in pairs]
    family = [number for number, (a, b) in enumerate(there) if enough(len(a), len(b))]
    positive = [bool(min(a.min(), b.min()) > 0) for a, b in there]
    scale = [np.log if positive[number] else np.asarray for number in family]
    tested = permutation_test(
        [of(pairs[number][-2]) for of, number in zip(scale, family, strict=True)],
        [of(pairs[number][-1]) for of, number in zip(scale, family, strict=True)],
    )
    p_of = dict(zip(family, tested.p_adjusted, strict=True))
    limit_of = dict(zip(family, tested.visible, strict=True))
    cells = []
    limits: dict[str, list[float]] = {}
    for number, (metric, server, level, *_) in enumerate(pairs):
        a, b = there[number]
        ratio = ratio_of_medians(b, a) if a.min() > 0 else None
        p = p_of.get(number)
        median_a, median_b = float(np.median(a)), float(np.median(b))
        verdict = _verdict(metric, median_b - median_a, ratio, p)
        cells.append(CellComparison(
            metric, server, level, median_a, median_b, len(a), len(b), ratio, p, verdict
        ))  # fmt: skip
        if positive[number] and np.isfinite(limit_of.get(number, math.inf)):
            limits.setdefault(metric, []).append(limit_of[number])
    visible = {metric: math.expm1(float(np.median(of))) for metric, of in limits.items()}
    return tuple(cells), visible


def _verdict(metric: str, change: float, ratio: Interval | None, p: float | None) -> Verdict:
    if p is None:
        return "too few repeats to tell"
    if p > FAMILY_WISE or change == 0 or (ratio is not None and ratio.low <= 1 <= ratio.high):
        return "no difference seen"
    up = change > 0
    if better(metric) == 0:
        return "higher" if up else "lower"
    return "faster" if up == (better(metric) > 0) else "slower"


# -- what else differs --------------------------------------------------------------------

FREE = ("repeats", "seed", "python")
"""Settings of a run that two runs need not share; lists are levels."""


def _manifest_differences(a: Run, b: Run) -> Iterator[str]:
    facts_a, facts_b = _facts(a.manifest), _facts(b.manifest)
    for name in [*facts_a, *(name for name in facts_b if name not in facts_a)]:
        mine, other = facts_a.get(name), facts_b.get(name)
        if mine != other:
            yield f"{name}: {_or_unknown(mine)} / {_or_unknown(other)}"


def _or_unknown(value: Any) -> str:
    return "not told" if value is None else str(value) or "none"


def _facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What should be the same in two runs that are compared, by the name that a person reads."""
    machine = manifest.get("machine") or {}
    server = (manifest.get("interpreters") or {}).get("server")
    facts = {
        "CPU": machine.get("cpu"),
        "cores": machine.get("cores_logical"),
        "kernel": machine.get("kernel"),
        "interpreter": server.get("title") if isinstance(server, dict) else server,
    }
    facts |= {
        name: value for name, value in manifest["parameters"].items()
        if name not in FREE and not isinstance(value, list)
    }  # fmt: skip
    return facts


def _offered_differences(a: Run, b: Run, question: Question) -> Iterator[str]:
    """A level that is a share of a capacity means what the run's own capacity makes of it."""
    offered = question.offered
    if offered is None or not {offered} <= set(a.trials.columns) & set(b.trials.columns):
        return
    in_a, in_b = (_samples(run, question.levels, offered) for run in (a, b))
    ratios = [
        float(np.nanmedian(in_b[key]) / np.nanmedian(in_a[key]))
        for key in in_a
        if key in in_b and np.nanmedian(in_a[key]) > 0
    ]
    if ratios and max(abs(ratio - 1) for ratio in ratios) > OFFERED_APART:
        yield f"{offered} at the same level: B/A from {min(ratios):.2f} to {max(ratios):.2f}"
