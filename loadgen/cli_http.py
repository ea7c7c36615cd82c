"""`load http`: options, words and exit statuses of the HTTP workload."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli import OneLine, fail_if, load, print_event, print_json

if TYPE_CHECKING:
    from loadgen.http_result import HttpResult

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
@click.option("--samples", type=click.Path(path_type=Path), metavar="FILE.parquet", help="Keep every request.")  # fmt: skip  # noqa: E501
@click.option("--hlog", type=click.Path(path_type=Path), metavar="FILE", help="Write an HdrHistogram log of the latencies, a line a second.")  # fmt: skip  # noqa: E501
@click.option("--fail-if", "conditions", multiple=True, metavar="EXPR", help="Exit status 1 if it holds: 'p99>50ms', 'errors>0.1%'. May be repeated.")  # fmt: skip  # noqa: E501
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
    from loadgen import samples as keep
    from loadgen.http_many import run
    from loadgen.http_probe import ask, read_url
    from loadgen.http_run import HttpConfig
    from loadgen.judge import parse_condition
    from loadgen.mix import Template, load_mix, single
    from loadgen.target import LoadError

    def fetch(path: str) -> bytes:
        status, body = ask(url, Template(path, "GET", path, 1.0), PROBE_S)
        if status != 200:
            raise LoadError(f"{url.target} answers {path} with {status}: mix {mix!r} needs it")
        return body

    try:
        asked = [parse_condition(text, "http") for text in conditions]
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
        ask(url, chosen.templates[0], max(PROBE_S, config.timeout_s))
        result = run(config, processes, print_event if events else None)
    except LoadError as error:
        click.echo(f"error: {error}", err=True)
        context.exit(2)
    except KeyboardInterrupt:
        click.echo("interrupted: nothing measured", err=True)
        context.exit(130)
    if events:
        print_json({"event": "result"} | result.to_json(timeline=True))
    elif as_json:
        print_json(result.to_json())
    else:
        _print_table(result)
    try:
        if samples is not None:
            keep.write_parquet(samples, result, chosen)
        if hlog is not None:
            keep.write_hlog(hlog, result)
    except LoadError as error:  # after the result, so that it is not lost
        click.echo(f"error: {error}", err=True)
        context.exit(2)
    fail_if(context, asked, result.summary)


def _print_table(result: HttpResult) -> None:
    from rich.console import Console
    from rich.table import Table

    s = result.summary
    table = Table(title=f"http on {s['target']}", show_header=False, title_justify="left")
    loop = (
        "closed loop" if s["mode"] == "closed" else f"open loop, {s['arrivals']}, {s['rate']:,g}/s"
    )
    errors = [f"{kind} {n:,}" for kind, n in s["errors"].items() if n]
    fairness = s["jain_fairness"]
    for name, value in (
        ("load", f"{s['mix']}, {loop}"),
        ("connections", f"{s['connected']} of {s['connections']}"),
        ("window", f"{s['duration_s']:.3f} s after {s['warmup_s']:g} s warm-up"),
        ("scheduled", f"{s['scheduled']:,} ({s['offered_rps']:,.1f}/s)"),
        ("answered", f"{s['answered']:,} ({s['throughput_rps']:,.1f}/s)"),
        (f"good, {s['slo_ms']:g} ms", f"{s['goodput_rps']:,.1f}/s"),
        ("rejected (503)", f"{s['rejected']:,}"),
        ("errors", ", ".join(errors) or "none"),
        ("latency, us", _percentiles(s["latency_us"])),
        ("from the send", _percentiles(s["service_latency_us"])),
        ("send lag, us", _percentiles(s["send_lag_us"])),
        ("fairness (Jain)", "-" if fairness is None else f"{fairness:.4f}"),
        ("client CPU", f"{s['client_cpu']:.0%} of a core, busy {s['client_busy']:.0%}"),
        ("valid", "yes" if s["valid"] else "NO: " + "; ".join(s["invalid_reasons"])),
    ):
        table.add_row(name, value)
    console = Console()
    console.print(table, markup=False)
    for warning in s["warnings"]:
        console.print(f"warning: {warning}", markup=False, highlight=False)


def _percentiles(found: dict[str, float | None]) -> str:
    return ", ".join(f"{name} {us:,.0f}" for name, us in found.items() if us is not None) or "-"
