"""`load http`, and `load samples`, which tells the same of a file that `load http` has kept."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.load import OneLine, Said, fail_if, load, one_line, print_event, show
from loadgen.output import visible

if TYPE_CHECKING:
    from loadgen.demand.mixes import Mix
    from loadgen.http.result import HttpResult

PROBE_S = 5.0
"""How long the first request may take; an overloaded server is slow to answer."""


@load.command(
    "http",
    cls=OneLine,
    epilog="""\b
Examples, with a server in another terminal:
  python -m servers eventloop --service web --port 8080
  sedabench load http --target http://127.0.0.1:8080/healthz --connections 64
  sedabench load http --target 127.0.0.1:8080 --mix dynamic --rate 2000 --slo 100
  sedabench load http --target 127.0.0.1:8080 --rate 1000 --duration 30 \\
      --arrivals spike:4,10,5 --json --fail-if 'p99>50ms' --fail-if 'errors>0.1%'

With --rate the loop is open: requests have a schedule that no server delays,
and latency counts from the scheduled time. Without it the loop is closed:
every connection waits for its reply before it asks again.

Exit status: 0 measured, 1 a --fail-if holds, 2 nothing could be measured.""",
)
@click.option("--target", required=True, metavar="URL", help="http://HOST:PORT/PATH")
@click.option("--connections", default=64, show_default=True, help="How many at once.")
@click.option("--duration", default=5.0, show_default=True, metavar="S", help="Seconds in the window.")  # fmt: skip  # noqa: E501
@click.option("--warmup", default=1.0, show_default=True, metavar="S", help="Seconds of the same load before the window, not counted.")  # fmt: skip  # noqa: E501
@click.option("--rate", type=float, metavar="R", help="Open loop: requests per second.  [default: closed loop]")  # fmt: skip  # noqa: E501
@click.option("--arrivals", metavar="KIND", help="poisson, constant, step:F1xS1,F2xS2,..., spike:F,AT,FOR (F times the rate), trace:FILE.  [default: poisson]")  # fmt: skip  # noqa: E501
@click.option("--mix", metavar="NAME|FILE", help="What is asked for: specweb99, dynamic, mixed, or a TOML file.  [default: the target's own path]")  # fmt: skip  # noqa: E501
@click.option("--requests-per-connection", default=0, metavar="K", help="Open each connection anew after K requests.  [default: never]")  # fmt: skip  # noqa: E501
@click.option("--timeout", default=5.0, show_default=True, metavar="S", help="A request without its whole reply for so long has failed; counts from its scheduled time.")  # fmt: skip  # noqa: E501
@click.option("--slo", default=100.0, show_default=True, metavar="MS", help="Latency within which a reply is good.")  # fmt: skip  # noqa: E501
@click.option("--seed", default=1, show_default=True, help="Draws arrivals and requests.")
@click.option("--processes", default=1, show_default=True, metavar="P", help="Split schedule and connections over P processes, where there are cores.")  # fmt: skip  # noqa: E501
@click.option("--spin/--no-spin", default=None, help="Open loop: never sleep, or sleep until the next request is due.  [default: spin, if the machine has two cores]")  # fmt: skip  # noqa: E501
@click.option("--samples", type=click.Path(path_type=Path), metavar="FILE.parquet", help="Keep every request; `sedabench load samples` reads it.")  # fmt: skip  # noqa: E501
@click.option("--hlog", type=click.Path(path_type=Path), metavar="FILE", help="Write an HdrHistogram log of the same latencies as in the result, a line a second.")  # fmt: skip  # noqa: E501
@click.option("--fail-if", "conditions", multiple=True, metavar="EXPR", help="Exit status 1 if it holds: 'p99>50ms', 'errors>0.1%', invalid. May be repeated. A latency condition counts as broken, too, when over 1 % of the requests were lost.")  # fmt: skip  # noqa: E501
@click.option("--allow-remote", is_flag=True, help="Allow a target that is not this machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.option("--events", is_flag=True, help="Print a line of JSON as the connections are up, as the window begins and ends, and for the result with its timeline.")  # fmt: skip  # noqa: E501
@click.pass_context
def http(
    context: click.Context,
    /,
    target: str,
    mix: str | None,
    allow_remote: bool,
    as_json: bool,
    events: bool,
    samples: Path | None,
    hlog: Path | None,
    conditions: tuple[str, ...],
    processes: int,
    spin: bool | None,
    **settings: Any,
) -> None:
    """HTTP/1.1 requests, closed loop or (with --rate) open loop.

    Every request that was scheduled is accounted for: answered, rejected (503),
    wrong, timed out, lost with its connection, or never sent.
    """
    from loadgen.cli.judging import parse_condition
    from loadgen.demand.mixes import Template, load_mix, single
    from loadgen.http import samples as keep
    from loadgen.http.many import run
    from loadgen.http.probe import ask, probe, read_url
    from loadgen.http.run import HttpConfig
    from loadgen.net.targets import LoadError

    def fetch(path: str) -> bytes:
        status, body = ask(url, Template(path, "GET", path, 1.0), PROBE_S)
        if status != 200:
            raise LoadError(f"{url.target} answers {path} with {status}: mix {mix!r} needs it")
        return body

    with one_line(context):
        asked = [parse_condition(text, "http") for text in conditions]
        if samples is not None and samples == hlog:
            raise LoadError(f"--samples and --hlog cannot both be {samples}")
        for path in (samples, hlog):
            keep.ensure_writable(path)
        if settings["arrivals"] is not None and settings["rate"] is None:
            if not settings["arrivals"].startswith("trace:"):
                raise LoadError("--arrivals is for an open loop: give a --rate too")
            settings["rate"] = 1.0  # of no account: the trace has its own times
        settings["arrivals"] = settings["arrivals"] or "poisson"
        settings["timeout_s"] = settings.pop("timeout")
        settings["duration_s"] = settings.pop("duration")
        settings["warmup_s"] = settings.pop("warmup")
        settings["slo_s"] = settings.pop("slo") / 1e3
        url = read_url(target, allow_remote=allow_remote)
        chosen = single(url.path) if mix is None else load_mix(mix, fetch)
        config = HttpConfig(
            target=url.target, host=url.host, mix=chosen,
            spin=spin if spin is not None else (os.cpu_count() or 1) > 1, **settings,
        )  # fmt: skip
        probe(url, chosen.templates[0], max(PROBE_S, config.timeout_s))
        result = run(config, processes, print_event if events else None)
    show(result, _rows, as_json=as_json, events=events)
    kept = _keep(samples, hlog, result, chosen)  # after the result, so that it is not lost
    fail_if(context, asked, result.summary)
    if not kept:
        context.exit(2)


def _keep(samples: Path | None, hlog: Path | None, result: HttpResult, mix: Mix) -> bool:
    """Write both files, each whatever becomes of the other; False if one could not be."""
    from loadgen.http import samples as keep
    from loadgen.net.targets import LoadError

    kept = True
    for path, write in (
        (samples, partial(keep.write_parquet, result=result, mix=mix)),
        (hlog, partial(keep.write_hlog, result=result)),
    ):
        try:
            if path is not None:
                write(path)
        except LoadError as error:
            click.echo(f"error: {visible(str(error))}", err=True)
            kept = False
    return kept


@load.command(
    "samples",
    cls=OneLine,
    epilog="""\b
Examples:
  sedabench load http --target 127.0.0.1:8080 --rate 2000 --samples a.parquet
  sedabench load samples a.parquet
  sedabench load samples a.parquet --slo 20 --json""",
)
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.parquet")
@click.option("--slo", type=float, metavar="MS", help="Latency within which a reply is good.  [default: that of the run]")  # fmt: skip  # noqa: E501
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.pass_context
def samples_(context: click.Context, /, file: Path, slo: float | None, as_json: bool) -> None:
    """The result of a `load http` again, from every request that it kept.

    FILE.parquet is what --samples has written: the requests, and the window, the SLO and
    the rest that the result needs. Any tool that reads Parquet reads the requests too.
    """
    from loadgen.http.result import summarise_records
    from loadgen.http.samples import read_parquet
    from loadgen.net.targets import LoadError

    with one_line(context):
        if slo is not None and not 1e-3 <= slo <= 86_400_000:
            raise LoadError(f"--slo must be from 0.001 to 86400000 ms, not {slo:g}")
        facts, records, classes = read_parquet(file)
        if slo is not None:
            facts = dataclasses.replace(facts, slo_ms=slo)
        result = summarise_records(facts, records, classes)
    show(result, _rows, as_json=as_json)


def _rows(said: Said) -> Iterator[tuple[str, str]]:
    loop = "closed loop" if said["mode"] == "closed" else f"open loop, {said['arrivals']}"
    if said["rate"] is not None:
        loop += f", {said['rate']:,g}/s"
    errors = [f"{kind} {n:,}" for kind, n in said["errors"].items() if n]
    fairness = said["jain_fairness"]
    yield "load", f"{said['mix']}, {loop}"
    yield "connections", f"{said['connected']} of {said['connections']}"
    yield "window", f"{said['duration_s']:.3f} s after {said['warmup_s']:g} s warm-up"
    yield "scheduled", f"{said['scheduled']:,} ({said['offered_rps']:,.1f}/s)"
    yield "answered", f"{said['answered']:,} ({said['throughput_rps']:,.1f}/s)"
    yield f"good, {said['slo_ms']:g} ms", f"{said['goodput_rps']:,.1f}/s"
    yield "rejected (503)", f"{said['rejected']:,}"
    yield "errors", ", ".join(errors) or "none"
    yield "latency, us", _percentiles(said["latency_us"])
    yield "from the send", _percentiles(said["service_latency_us"])
    yield "send lag, us", _percentiles(said["send_lag_us"])
    yield "fairness (Jain)", "-" if fairness is None else f"{fairness:.4f}"
    yield "client CPU", f"{said['client_cpu']:.0%} of a core, busy {said['client_busy']:.0%}"


def _percentiles(found: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {us:,.0f}" for name, us in found.items() if us is not None) or "-"
