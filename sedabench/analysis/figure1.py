"""What a run says, in a table and in sentences, computed from its trials and from nothing else.

Only valid trials count.  A sentence says what its numbers allow: when the
interval of a ratio reaches 1 there is no difference to report, and when the
load generator's core was full while the server's was not, what was measured
is the load generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from sedabench.analysis.stats import Interval, median, ratio_of_medians
from sedabench.results.folder import Run

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

FULL_CORE = 0.95
"""From this share on a core counts as saturated: a sampled share never quite reaches 1."""


@dataclass(frozen=True)
class CellSummary:
    """One server at one level; medians over the valid repeats, None without any."""

    server: str
    connections: int
    valid: int
    trials: int
    bandwidth_bps: Interval | None
    jain_fairness: float | None
    ack_p50_us: float | None
    ack_p99_us: float | None
    client_cpu: float | None
    server_cpu: float | None
    reasons: tuple[str, ...]

    @property
    def load_generator_was_the_limit(self) -> bool:
        """The client's core was full and the server's was not: a lower bound of the server."""
        if self.client_cpu is None or self.server_cpu is None:
            return False
        return self.client_cpu >= FULL_CORE > self.server_cpu


def servers_of(run: Run) -> list[str]:
    """Labels in the order in which the run names them, those with a trial."""
    named = [spec["label"] for spec in run.manifest["parameters"]["servers"]]
    present = set(run.trials["server"])
    return [label for label in named if label in present]


def cells(run: Run) -> list[CellSummary]:
    """Every server at every level that has a trial, servers in their order, levels ascending."""
    groups: dict[tuple[str, int], pd.DataFrame] = {}
    for key, trials in run.trials.groupby(["server", "connections"]):
        server, connections = cast(tuple[str, int], key)
        groups[server, int(connections)] = trials
    return [
        _cell(server, level, trials)
        for server in servers_of(run)
        for (owner, level), trials in sorted(groups.items(), key=lambda item: item[0])
        if owner == server
    ]


def _cell(server: str, connections: int, trials: pd.DataFrame) -> CellSummary:
    valid = trials[trials["valid"]]

    def middle(column: str) -> float | None:
        values = valid[column].dropna()
        return float(values.median()) if len(values) else None

    bandwidth = valid["bandwidth_bps"].dropna()
    reasons = {r for text in trials["invalid_reason"] for r in str(text).split(" | ") if r}
    return CellSummary(
        server=server,
        connections=connections,
        valid=len(valid),
        trials=len(trials),
        bandwidth_bps=median(bandwidth.to_numpy(float)) if len(bandwidth) else None,
        jain_fairness=middle("jain_fairness"),
        ack_p50_us=middle("ack_p50_us"),
        ack_p99_us=middle("ack_p99_us"),
        client_cpu=middle("client_cpu"),
        server_cpu=middle("server_cpu"),
        reasons=tuple(sorted(reasons)),
    )


def show(run: Run, console: Console) -> None:
    """Print table and sentences."""
    console.print(table(run))
    for text in sentences(run):
        console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def table(run: Run) -> Table:
    """One row a server and level."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    summaries = cells(run)
    ranges = any("*" in _limits(cell.bandwidth_bps) for cell in summaries)
    made = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)
    made.add_column("server", no_wrap=True)
    for heading in (
        "connec-\ntions", "median\nGbit/s", "95 %\ninterval", "Jain\nindex",
        "ACK in ms\np50 / p99", "CPU of\nload/server", "valid",
    ):  # fmt: skip
        made.add_column(heading, justify="right", no_wrap=True)
    before = None
    for cell in summaries:
        if before not in (None, cell.server):
            made.add_section()
        bandwidth = cell.bandwidth_bps
        made.add_row(
            "" if before == cell.server else cell.server,
            str(cell.connections),
            f"{bandwidth.value / 1e9:.2f}" if bandwidth else "-",
            _limits(bandwidth),
            _number(cell.jain_fairness, ".3f"),
            f"{_milliseconds(cell.ack_p50_us)} / {_milliseconds(cell.ack_p99_us)}",
            f"{_number(cell.client_cpu, '.2f')} / {_number(cell.server_cpu, '.2f')}",
            f"{cell.valid}/{cell.trials}",
        )
        before = cell.server
    if ranges:
        made.caption = "* fewer than 3 valid repeats: their range, no interval"
        made.caption_justify = "left"
    return made


def _limits(bandwidth: Interval | None) -> str:
    if bandwidth is None or bandwidth.n == 1:
        return "-"
    starred = "*" if bandwidth.kind == "range" else ""
    return f"{bandwidth.low / 1e9:.2f}-{bandwidth.high / 1e9:.2f}{starred}"


def sentences(run: Run) -> list[str]:
    """One sentence a server: how much of its peak it keeps at the most connections."""
    if not len(run.trials):
        return []
    most = int(run.trials["connections"].max())
    summaries = cells(run)
    return [
        _sentence(run, server, [c for c in summaries if c.server == server], most)
        for server in servers_of(run)
    ]


def _sentence(run: Run, server: str, mine: Sequence[CellSummary], most: int) -> str:
    measured = [cell for cell in mine if cell.bandwidth_bps is not None]
    if not measured:
        return f"{server}: no valid trial{_because(mine)}."
    peak = max(measured, key=lambda cell: cell.bandwidth_bps.value)  # type: ignore[union-attr]
    assert peak.bandwidth_bps is not None
    peak_text = f"{peak.bandwidth_bps.value / 1e9:.1f} Gbit/s at {_connections(peak.connections)}"
    bound = (
        "; at the peak the load generator's core was saturated and the server's was not, "
        "so the peak is a lower bound of this server's"
        if peak.load_generator_was_the_limit
        else ""
    )
    last = next((cell for cell in measured if cell.connections == most), None)
    if last is None:
        at_most = [cell for cell in mine if cell.connections == most]
        return (
            f"{server} reaches {peak_text}{bound}; "
            f"it has no valid trial at {_connections(most)}{_because(at_most)}."
        )
    if len(measured) == 1:
        return f"{server} was measured at one level only: {peak_text}{bound}."
    if last is peak:
        return f"{server} is at its peak at the most connections: {peak_text}{bound}."
    kept = ratio_of_medians(_bandwidths(run, last), _bandwidths(run, peak))
    text = (
        f"{server} keeps {kept.value:.0%} of its peak ({peak_text}) at {_connections(most)}, "
        f"{_interval(kept)}"
    )
    if kept.high >= 1 and kept.n > 1:
        text += "; that is within the noise of the repeats"
    if last.load_generator_was_the_limit:
        both = peak.load_generator_was_the_limit
        bound = (
            f"; at {'both levels' if both else _connections(most)} the load generator's core was "
            "saturated and the server's was not, so "
            + ("both are lower bounds" if both else "that bandwidth is a lower bound")
            + " of this server's"
        )
    return text + bound + "."


def _bandwidths(run: Run, cell: CellSummary) -> list[float]:
    trials = run.trials
    mine = (trials["server"] == cell.server) & (trials["connections"] == cell.connections)
    return [float(v) for v in trials[mine & trials["valid"]]["bandwidth_bps"].dropna()]


def _interval(ratio: Interval) -> str:
    if ratio.n == 1:
        return "from a single repeat"
    limits = f"{ratio.low * 100:.0f} to {ratio.high:.0%}"
    if ratio.kind == "bootstrap":
        return f"95 % interval {limits}"
    return f"range {limits} over {ratio.n} repeats"


def _because(cells_without: Sequence[CellSummary]) -> str:
    reasons = [reason for cell in cells_without for reason in cell.reasons]
    return f" ({reasons[0]})" if reasons else ""


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count > 1 else ''}"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def _milliseconds(value_us: float | None) -> str:
    return "-" if value_us is None else f"{value_us / 1000:.{0 if value_us >= 1e5 else 1}f}"
