"""The columns that trials of every workload have, and what a workload adds to them.

A workload's own columns are a module (`burst_columns`, `http_columns`) that
has what `Columns` says.  Nothing here knows how a trial is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from sedabench.results.folder import Column, Value

TRIAL = (
    Column("trial", "int", "", "number of the trial in the order in which trials ran, from 0"),
    Column("block", "int", "", "repeat: each block has every server at every level once"),
)
SERVER = (
    Column("server", "str", "", "label of the server"),
    Column("architecture", "str", "", "who ran the steps"),
    Column("server_options", "str", "", "options of the server's command line"),
)
CONDITIONS = (
    Column("connections", "int", "", "connections asked for (the level)"),
    Column("connected", "int", "", "connections that were up when the warm-up began"),
    Column("started_utc", "str", "", "wall clock when the trial began"),
    Column("warmup_s", "float", "s", "time between the last connection and the window"),
    Column("duration_s", "float", "s", "length of the window, as measured"),
    Column("valid", "bool", "", "True when the trial passed every check"),
    Column("invalid_reason", "str", "", "the checks that failed, separated by ' | '"),
    Column("warnings", "str", "", "what is odd without making the trial invalid"),
)
PROCESSES = (
    Column("client_cpu", "float", "cores", "CPU time of the client over the window / duration"),
    Column("server_cpu", "float", "cores", "CPU time of the server over the window / duration"),
    Column("server_rss_bytes", "int", "B", "resident memory of the server at the window's end"),
    Column("server_threads", "int", "", "threads of the server at the window's end"),
)
SWITCHES = (
    Column("server_voluntary_switches_per_s", "float", "1/s", "times a thread went to sleep"),
    Column("server_involuntary_switches_per_s", "float", "1/s", "times a thread was preempted"),
    Column("server_refused", "int", "", "connections refused until the window's end"),
    Column("server_errors", "str", "", "the server's errors until the window's end, as kind=count"),
)
COUNTS_AGREE = "count_disagreement"
MACHINE = (
    Column("steal", "float", "", "share of the two cores' time that the hypervisor took"),
    Column("other_cpu", "float", "cores", "what anything else took of the two cores, about"),
    Column("load_1m", "float", "", "load average of one minute when the trial began"),
)


class Columns(Protocol):
    """How what load generator and server say becomes a row."""

    COLUMNS: tuple[Column, ...]

    def of_result(self, result: Mapping[str, Any]) -> dict[str, Value]:
        """The columns that come from what the load generator said, which may be nothing."""

    def of_snapshots(
        self, begin: Mapping[str, Any], end: Mapping[str, Any], result: Mapping[str, Any]
    ) -> tuple[dict[str, Value], str | None]:
        """Those that need the server's two snapshots, and what about them spoils the trial."""

    def to_keep(self, result: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the trial's raw record keeps of a result."""


def kinds(errors: Mapping[str, int] | None) -> str:
    """Errors by kind as one field: "reset=3 idle=1"."""
    return " ".join(f"{kind}={count}" for kind, count in sorted((errors or {}).items()) if count)
