"""`sedabench compare RUN_A RUN_B`: the table, the sentences, the exit status.

How a verdict is reached is told in `sedabench.analysis.compare`; nothing is decided here.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.output import visible
from sedabench.cli.notes import say_note
from sedabench.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from sedabench.analysis.compare import CellComparison, Comparison, Key, Level
    from sedabench.analysis.stats import Interval

SHOWN = {"bit/s": (1e9, "Gbit/s"), "us": (1e3, "ms"), "B": (1e6, "MB")}
"""unit of a column -> how many of it make the unit of the table."""


@click.command(short_help="Compare two runs: sedabench compare RUN_A RUN_B.")
@click.argument("run_a", metavar="RUN_A", type=click.Path(path_type=Path))
@click.argument("run_b", metavar="RUN_B", type=click.Path(path_type=Path))
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A column of trials.csv that holds numbers; repeat it.  [default: what the experiment is about: bandwidth_bps of figure1]")  # fmt: skip  # noqa: E501
@click.option("--fail-if-slower", "percent", type=click.FloatRange(min=0), metavar="PERCENT", help="Exit with status 1 when a cell of B is slower than that of A by more than PERCENT, its whole interval included, or has too few valid trials in B to tell, or none.")  # fmt: skip  # noqa: E501
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as one line of JSON.")
def compare(
    run_a: Path, run_b: Path, metrics: tuple[str, ...], percent: float | None, as_json: bool
) -> None:
    """Compare two runs of one experiment: which server got faster from A to B, which slower?

    Every server and level that both runs have: the medians over valid trials,
    their ratio B/A with its 95 % bootstrap interval, and a verdict. Verdicts
    are for all cells together: where nothing differs, a comparison shows a
    difference anywhere in one of 20 cases at most. It takes 4 repeats of each
    (--repeats 5 leaves one to lose). What changed between the two runs, the
    servers or the machine, no comparison can tell.

    Exit status: 0 compared, 1 what --fail-if-slower forbids, 2 not to be compared.

    \b
    Examples:
      sedabench run figure1 --quick --repeats 5 --out before      # and again: --out after
      sedabench compare before after
      sedabench compare before after --metric ack_p99_us
      sedabench compare before after --fail-if-slower 5 && echo no slower
    """
    from sedabench.analysis.compare import compare as compare_runs
    from sedabench.experiments.registry import of_run
    from sedabench.progress import standard_output
    from sedabench.results.folder import load_run

    if percent is not None and not math.isfinite(percent):
        raise UserError(f"--fail-if-slower {percent:g} is no limit; give a number, as in 5")
    a, b = load_run(run_a), load_run(run_b)
    experiment = of_run(a)
    say_note(experiment.note)
    found = compare_runs(a, b, experiment.question_of(a), metrics)
    lost = [] if percent is None else found.lost()
    slower = [] if percent is None else _slower_than(found, percent, lost)
    if as_json:
        click.echo(json.dumps(_json(found, percent, slower, lost), allow_nan=False))
    else:
        show(found, standard_output())
        if slower:
            listed = ", ".join(f"{_listed(found, [cell.key])} ({_ratio(cell)})" for cell in slower)
            click.echo(visible(f"slower by more than {percent:g} %: {listed}"))
        if lost:
            click.echo(
                f"failed: measured in A, and in B without enough valid trials to judge: "
                f"{visible(_listed(found, lost))}"
            )
        if percent is not None and not slower and not lost:
            click.echo(f"no cell is slower by more than {percent:g} %")
    sys.exit(1 if slower or lost else 0)


def _slower_than(found: Comparison, percent: float, lost: Sequence[Key]) -> list[CellComparison]:
    """What `--fail-if-slower` fails for; it must be able to."""
    from sedabench.analysis.compare import better

    for metric in found.metrics:
        if better(metric) == 0:
            raise UserError(
                f"--fail-if-slower cannot judge {metric}: it is not known whether more of it is "
                "better; leave out one of the two"
            )
        if better(metric) > 0 and percent >= 100:
            raise UserError(f"{metric} cannot fall by {percent:g} %; give less than 100")
    if not lost and all(cell.verdict == "too few repeats to tell" for cell in found.cells):
        raise UserError(
            "--fail-if-slower cannot judge: no cell has enough valid repeats to tell, 4 of each "
            "run; make the runs with --repeats 5"
        )
    return found.slower_than(percent)


def show(found: Comparison, console: Console) -> None:
    """Print a table for each metric, then the sentences."""
    for metric in found.metrics:
        if any(cell.metric == metric for cell in found.cells):
            console.print(table(found, metric))
    for text in sentences(found):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def table(found: Comparison, metric: str) -> Table:
    """One row a server and level."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from sedabench.analysis.compare import better

    unit = found.a.manifest["columns"][metric].get("unit", "")
    scale, shown_unit = SHOWN.get(unit, (1.0, unit))
    way = {1: "more is better", -1: "less is better", 0: ""}[better(metric)]
    cells = [cell for cell in found.cells if cell.metric == metric]
    made = Table(
        box=SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True,
        title=", ".join(part for part in (metric, shown_unit, way) if part), title_justify="left",
    )  # fmt: skip
    made.add_column("server", no_wrap=True)
    levels = ("connec-\ntions" if name == "connections" else name for name in found.levels)
    for heading in (*levels, "A", "B", "B/A", "95 %\ninterval", "n of\nA, B"):
        made.add_column(heading, justify="right", no_wrap=True)
    made.add_column("verdict")
    before = None
    for cell in cells:
        if before not in (None, cell.server):
            made.add_section()
        made.add_row(
            "" if before == cell.server else cell.server,
            *map(_level, cell.level),
            _number(cell.a / scale),
            _number(cell.b / scale),
            "-" if cell.ratio is None else f"{cell.ratio.value:.3f}",
            _limits(cell.ratio),
            f"{cell.n_a}, {cell.n_b}",
            cell.verdict,
        )
        before = cell.server
    if any("*" in _limits(cell.ratio) for cell in cells):
        made.caption = "* fewer than 3 valid repeats: the range of their ratios, no interval"
        made.caption_justify = "left"
    return made


def sentences(found: Comparison) -> list[str]:
    """What each server did, how fine the comparison was, and what it leaves out."""
    said = [
        _sentence(found, metric, server)
        for metric in found.metrics
        for server in dict.fromkeys(c.server for c in found.cells if c.metric == metric)
    ]
    said += [
        f"With these repeats and their noise, {metric} must differ by about {share:.1%} at a "
        "level to show a difference (the middle one)."
        for metric, share in found.visible.items()
    ]
    beyond = sum(
        cell.verdict == "no difference seen"
        and cell.ratio is not None
        and not cell.ratio.low <= 1 <= cell.ratio.high
        for cell in found.cells
    )
    if beyond:
        said.append(
            f"{_counted(beyond, 'cell')} with no difference seen: the interval does not reach 1, "
            f"but it is for one cell, and of {len(found.cells)} some miss 1 by chance."
        )
    if found.left_out_a or found.left_out_b:
        said.append(
            f"Left out as invalid: {found.left_out_a} of {len(found.a.trials)} trials of A, "
            f"{found.left_out_b} of {len(found.b.trials)} of B."
        )
    for run, keys in (("A", found.only_a), ("B", found.only_b)):
        if keys:
            said.append(f"Measured in {run} only, not compared: {_listed(found, keys)}.")
    if found.differences:
        said.append(f"warning: not the same in A and B: {'; '.join(found.differences)}")
    return said


def _sentence(found: Comparison, metric: str, server: str) -> str:
    mine = [c for c in found.cells if (c.metric, c.server) == (metric, server)]
    name = server if len(found.metrics) == 1 else f"{server}, {metric}"
    levels = _counted(len(mine), "level")
    counted = Counter(cell.verdict for cell in mine)
    if len(counted) == 1:
        return f"{name}: {mine[0].verdict} at {'its' if len(mine) == 1 else 'all'} {levels}."
    verdicts = ", ".join(f"{verdict} at {n}" for verdict, n in counted.most_common())
    return f"{name}: of {levels} {verdicts}."


def _listed(found: Comparison, keys: Sequence[Key]) -> str:
    """ "seda at 64", each once; with a metric where not all of them are meant."""
    metrics: dict[tuple[str, tuple[Level, ...]], list[str]] = {}
    for metric, server, level in keys:
        metrics.setdefault((server, level), []).append(metric)
    return ", ".join(
        ("" if len(of) == len(found.metrics) else f"{' and '.join(of)} of ")
        + f"{server} at {' '.join(map(_level, level))}"
        for (server, level), of in metrics.items()
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _level(level: Level) -> str:
    return f"{level:g}" if isinstance(level, float) else str(level)


def _number(value: float) -> str:
    """Four digits, and no exponent for what is large."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _ratio(cell: CellComparison) -> str:
    return "-" if cell.ratio is None else f"{cell.ratio.value:.3f}, {_limits(cell.ratio)}"


def _limits(ratio: Interval | None) -> str:
    """ "0.660-0.740", with a star where it is the range of few repeats."""
    if ratio is None:
        return "-"
    return f"{ratio.low:.3f}-{ratio.high:.3f}{'*' if ratio.kind == 'range' else ''}"


def _json(
    found: Comparison,
    percent: float | None,
    slower: Sequence[CellComparison],
    lost: Sequence[Key],
) -> dict[str, Any]:
    from sedabench.analysis.compare import better
    from sedabench.analysis.family_test import FAMILY_WISE

    def key(metric: str, server: str, level: tuple[Level, ...]) -> dict[str, Any]:
        return {
            "metric": metric, "server": server, **dict(zip(found.levels, level, strict=True))
        }  # fmt: skip

    def keys(of: Sequence[Key]) -> list[dict[str, Any]]:
        return [key(*one) for one in of]

    def cell(one: CellComparison) -> dict[str, Any]:
        ratio = one.ratio
        return key(*one.key) | {
            "a": one.a, "b": one.b, "n_a": one.n_a, "n_b": one.n_b,
            "ratio": ratio and ratio.value, "ratio_low": ratio and ratio.low,
            "ratio_high": ratio and ratio.high, "interval": ratio and ratio.kind,
            "p_adjusted": one.p_adjusted, "verdict": one.verdict,
        }  # fmt: skip

    return {
        "experiment": found.a.manifest["experiment"],
        "a": str(found.a.path),
        "b": str(found.b.path),
        "levels": found.levels,
        "metrics": {
            metric: {1: "more is better", -1: "less is better", 0: None}[better(metric)]
            for metric in found.metrics
        },
        "family_wise_error": FAMILY_WISE,
        "visible": dict(found.visible),
        "invalid_a": found.left_out_a,
        "invalid_b": found.left_out_b,
        "cells": [cell(one) for one in found.cells],
        "only_a": keys(found.only_a),
        "only_b": keys(found.only_b),
        "differences": found.differences,
        "fail_if_slower_percent": percent,
        "slower": keys([one.key for one in slower]),
        "lost": keys(lost),
    }
