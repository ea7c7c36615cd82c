"""The table of `load http` and `load samples`."""

from __future__ import annotations

from collections.abc import Iterator

from loadgen.cli.result import Summary


def rows(summary: Summary) -> Iterator[tuple[str, str]]:
    """Name and text of each line."""
    loop = "closed loop" if summary["mode"] == "closed" else f"open loop, {summary['arrivals']}"
    if summary["rate"] is not None:
        loop += f", {summary['rate']:,g}/s"
    errors = [f"{kind} {n:,}" for kind, n in summary["errors"].items() if n]
    fairness = summary["jain_fairness"]
    yield "load", f"{summary['mix']}, {loop}"
    yield "connections", f"{summary['connected']} of {summary['connections']}"
    yield "window", f"{summary['duration_s']:.3f} s after {summary['warmup_s']:g} s warm-up"
    yield "scheduled", f"{summary['scheduled']:,} ({summary['offered_rps']:,.1f}/s)"
    yield "answered", f"{summary['answered']:,} ({summary['throughput_rps']:,.1f}/s)"
    yield f"good, {summary['slo_ms']:g} ms", f"{summary['goodput_rps']:,.1f}/s"
    yield "rejected (503)", f"{summary['rejected']:,}"
    yield "errors", ", ".join(errors) or "none"
    yield "latency, us", _percentiles(summary["latency_us"])
    yield "from the send", _percentiles(summary["service_latency_us"])
    yield "send lag, us", _percentiles(summary["send_lag_us"])
    yield "fairness (Jain)", "-" if fairness is None else f"{fairness:.4f}"
    yield "client CPU", f"{summary['client_cpu']:.0%} of a core, busy {summary['client_busy']:.0%}"


def _percentiles(found: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {us:,.0f}" for name, us in found.items() if us is not None) or "-"
