"""`sedabench calibrate`: options, and the tables of what was measured."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.output import tell
from sedabench.errors import StoppedBySignal, UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@click.command(short_help="Measure how far the load generator can be trusted on this machine.")
@click.option("--quick", is_flag=True, help="Under 30 s, with shorter windows and fewer rates. Without it under 2 minutes.")  # fmt: skip  # noqa: E501
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where it is kept.  [default: $XDG_STATE_HOME/sedabench/calibration.json, or below ~/.local/state]")  # fmt: skip  # noqa: E501
@click.option("--show", is_flag=True, help="Measure nothing: print what was kept.")
def calibrate(quick: bool, out: Path | None, show: bool) -> None:
    """Measure the instrument, and keep the result for the manifests of runs.

    The cost of the clock, the loopback's bandwidth, the highest rates in a
    closed and an open loop, how late requests are sent at each rate, and the
    error of percentiles against a server whose delays are known exactly. Leave
    the machine alone meanwhile. `run` warns when an experiment asks for more.
    Ctrl-C keeps nothing; the file of an earlier calibration stays as it was.

    \b
    Examples:
      sedabench calibrate
      sedabench calibrate --quick --out calibration.json
      sedabench calibrate --show
    """
    from sedabench.calibration import measure
    from sedabench.calibration import record as calibration
    from sedabench.progress import Progress, standard_output

    console = standard_output()
    path = out or calibration.default_path()
    if show:
        found = calibration.read_calibration(path)
        if found is None:
            raise UserError(f"nothing is kept in {path}; run: sedabench calibrate")
        try:
            print_tables(found, console)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            raise UserError(f"{path} is damaged; delete it, or run: sedabench calibrate") from None
        console.print(f"from {path}", markup=False, soft_wrap=True)
        return
    calibration.ensure_writable(path)
    effort = measure.QUICK if quick else measure.FULL
    try:
        found = measure.calibrate(effort, Progress(console))
    except KeyboardInterrupt as stop:
        click.echo("interrupted: nothing was kept", err=True)
        sys.exit(128 + (stop.signum if isinstance(stop, StoppedBySignal) else signal.SIGINT))
    print_tables(found, console)  # before it is kept: a full disk must not take it away
    try:
        calibration.keep(found, path)
    except UserError as error:
        raise _kept_elsewhere(found, error) from None
    tell(f"kept in {path}")


def _kept_elsewhere(found: dict[str, Any], error: UserError) -> UserError:
    """Two minutes of measuring, saved into the folder for temporary files."""
    from sedabench.calibration import record as calibration

    try:
        other = Path(tempfile.mkdtemp(prefix="sedabench-"), "calibration.json")
        calibration.keep(found, other)
    except (OSError, UserError):
        return UserError(f"{error}; nothing but the tables above is left")
    return UserError(f"{error}; what was measured is in {other}")


def print_tables(found: dict[str, Any], console: Console) -> None:
    """Everything that a calibration says, for a person."""
    for table in (_summary(found), _rates(found), _errors(found), _stall(found)):
        if table is not None:
            console.print(table)


def _table(title: str, *columns: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="right" if number else "left")
    return table


def _summary(found: dict[str, Any]) -> Table:
    from rich.table import Table

    clock, machine = found["clock"], found["machine"]
    table = Table(title="calibration", title_justify="left", show_header=False)
    table.add_row("measured", f"{found['measured_utc']}, {found['effort']}, {found['took_s']:g} s")
    table.add_row("machine", f"{machine['cpu']}, {machine['kernel']}, {found['python']}")
    table.add_row("load before", f"{machine['load_average'][0]:.2f}")
    table.add_row("a look at the clock", f"{clock['cost_ns']:.0f} ns")
    table.add_row(
        "core taken away",
        f"{clock['hiccups']} times over 100 us in {clock['watched_s']:g} s, "
        f"at most {clock['hiccup_longest_us']:,.0f} us, {clock['hiccup_share']:.2%} of the time",
    )
    table.add_row(
        "loopback",
        f"{found['loopback']['bandwidth_bps'] / 1e9:.1f} Gbit/s, "
        f"{found['loopback']['connections']} connections",
    )
    for row in found["closed_loop"]:
        table.add_row(
            "closed loop", f"{row['rps']:,.0f}/s, {row['connections']} connections, {row['peer']}"
        )
    rate = found["open_loop_rps"]
    table.add_row("open loop", "no rate was driven" if rate is None else f"{rate:,}/s")
    for warning in found["warnings"]:
        table.add_row("warning", warning)
    return table


def _rates(found: dict[str, Any]) -> Table:
    peer = found["open_loop"][0]["peer"]
    table = _table(
        f"open loop, Poisson, {peer}: how late requests are sent, us",
        "rate", "lag p50", "p99", "max", "latency p50", "p99", "busy", "kept up", "",
    )  # fmt: skip
    for row in found["open_loop"]:
        table.add_row(
            f"{row['rate_rps']:,}/s",
            *(
                f"{row[name]:,.1f}"
                for name in (
                    "lag_p50_us", "lag_p99_us", "lag_max_us", "latency_p50_us", "latency_p99_us",
                )
            ),
            f"{row['client_busy']:.0%}", f"{row['kept_up_share']:.2%}", row["limit"],
        )  # fmt: skip
    return table


def _errors(found: dict[str, Any]) -> Table:
    table = _table(
        "known delays: measured beside true, us",
        "rate", "percentile", "true", "measured", "error", "", "within 2 % or 50 us",
    )  # fmt: skip
    for run in found["known_delays"]:
        for name, row in run["percentiles"].items():
            table.add_row(
                f"{run['rate_rps']:,}/s", name, f"{row['true_us']:,.1f}",
                f"{row['measured_us']:,.1f}", f"{row['error_us']:+,.1f}",
                f"{row['error_us'] / row['true_us']:+.2%}", "yes" if row["within"] else "NO",
            )  # fmt: skip
    return table


def _stall(found: dict[str, Any]) -> Table | None:
    stall = found["stall"]
    if stall is None:
        return None
    table = _table(
        f"a server that stalls {stall['stall_ms']} ms each second, {stall['rate_rps']:,}/s: "
        "latency, ms",
        "", "p50", "p90", "p99", "p99.9",
    )  # fmt: skip
    for name, key in (
        ("closed loop", "closed_latency_us"),
        ("open loop", "open_latency_us"),
        ("open loop in theory", "theory_latency_us"),
    ):
        values = (stall[key][share] / 1e3 for share in ("p50", "p90", "p99", "p999"))
        table.add_row(name, *(f"{value:.1f}" for value in values))
    return table
