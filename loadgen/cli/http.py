"""`load http`: options, and the files it writes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from loadgen.cli.command import OneLineCommand, one_line_errors
from loadgen.cli.conditions import parse_condition
from loadgen.cli.http_rows import rows
from loadgen.cli.result import fail_if, print_event, show_result
from loadgen.errors import LoadError
from loadgen.output import visible

if TYPE_CHECKING:
    from loadgen.demand.mixes import Mix
    from loadgen.http.result import HttpResult


@click.command(
    "http",
    cls=OneLineCommand,
    epilog="""\b
Examples, with a server in another terminal:
  python -m servers eventloop --service web --port 8080
  sedabench load http --target http://127.0.0.1:8080/healthz --connections 64
  sedabench load http --target 127.0.0.1:8080 --mix dynamic --rate 2000 --slo 100
  sedabench load http --target 127.0.0.1:8080 --rate 1000 --duration 30 \\
      --arrivals spike:4,10,5 --json --fail-if 'p99>50ms' --fail-if 'errors>0.1%'

With --rate the loop is open: requests follow a schedule that no server can
delay, and latency counts from the scheduled time. Without it the loop is closed:
every connection waits for its reply before it sends the next request.

Exit status: 0 measured, 1 a --fail-if holds, 2 nothing could be measured.""",
)
@click.option("--target", required=True, metavar="URL", help="http://HOST:PORT/PATH")
@click.option("--connections", default=64, show_default=True, help="Concurrent connections.")
@click.option("--duration", default=5.0, show_default=True, metavar="S", help="Length of the measured window in seconds.")  # fmt: skip  # noqa: E501
@click.option("--warmup", default=1.0, show_default=True, metavar="S", help="Seconds of the same load before the window, not counted.")  # fmt: skip  # noqa: E501
@click.option("--rate", type=float, metavar="R", help="Open loop: requests per second.  [default: closed loop]")  # fmt: skip  # noqa: E501
@click.option("--arrivals", metavar="KIND", help="poisson, constant, step:F1xS1,F2xS2,..., spike:F,AT,FOR (F times the rate), trace:FILE.  [default: poisson]")  # fmt: skip  # noqa: E501
@click.option("--mix", metavar="NAME|FILE", help="What to request: specweb99, dynamic, mixed, or a TOML file.  [default: the target's own path]")  # fmt: skip  # noqa: E501
@click.option("--requests-per-connection", default=0, metavar="K", help="Reopen each connection after K requests.  [default: never]")  # fmt: skip  # noqa: E501
@click.option("--timeout", default=5.0, show_default=True, metavar="S", help="Seconds from the scheduled time within which the complete reply must arrive.")  # fmt: skip  # noqa: E501
@click.option("--slo", default=100.0, show_default=True, metavar="MS", help="Maximum latency of a good reply.")  # fmt: skip  # noqa: E501
@click.option("--seed", default=1, show_default=True, help="Seed for arrivals and requests.")
@click.option("--processes", default=1, show_default=True, metavar="P", help="Split schedule and connections over P processes, each with a core of its own if there are enough.")  # fmt: skip  # noqa: E501
@click.option("--spin/--no-spin", default=None, help="Open loop: never sleep, or sleep until the next request is due.  [default: spin on a machine with two or more cores]")  # fmt: skip  # noqa: E501
@click.option("--samples", type=click.Path(path_type=Path), metavar="FILE.parquet", help="Save every request; `sedabench load samples` reads the file.")  # fmt: skip  # noqa: E501
@click.option("--hlog", type=click.Path(path_type=Path), metavar="FILE", help="Write an HdrHistogram log of the latencies in the result, one line per second.")  # fmt: skip  # noqa: E501
@click.option("--fail-if", "conditions", multiple=True, metavar="EXPR", help="Exit with status 1 if this holds: 'p99>50ms', 'errors>0.1%', invalid. Repeatable. A latency condition also fails if over 1 % of the requests were lost.")  # fmt: skip  # noqa: E501
@click.option("--allow-remote", is_flag=True, help="Allow a target on another machine.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.option("--events", is_flag=True, help="Print a line of JSON once connected, when the window begins and ends, and for the result with its timeline.")  # fmt: skip  # noqa: E501
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

    Every scheduled request is accounted for: answered, rejected (503), wrong,
    timed out, lost with its connection, or never sent.
    """
    from loadgen.http import samples as sample_files
    from loadgen.http.config import HttpConfig
    from loadgen.http.parallel import run
    from loadgen.http.probe import open_mix, probe, read_url

    with one_line_errors(context):
        failing = [parse_condition(text, "http") for text in conditions]
        if samples is not None and samples == hlog:
            raise LoadError(f"--samples and --hlog cannot both be {samples}")
        for path in (samples, hlog):
            sample_files.ensure_writable(path)
        if settings["arrivals"] is not None and settings["rate"] is None:
            if not settings["arrivals"].startswith("trace:"):
                raise LoadError("--arrivals is for an open loop: add --rate")
            settings["rate"] = 1.0  # ignored: the trace has its own times
        settings["arrivals"] = settings["arrivals"] or "poisson"
        settings["timeout_s"] = settings.pop("timeout")
        settings["duration_s"] = settings.pop("duration")
        settings["warmup_s"] = settings.pop("warmup")
        settings["slo_s"] = settings.pop("slo") / 1e3
        url = read_url(target, allow_remote=allow_remote)
        chosen = open_mix(url, mix)
        config = HttpConfig(
            target=url.target, host=url.host, mix=chosen,
            spin=spin if spin is not None else (os.cpu_count() or 1) > 1, **settings,
        )  # fmt: skip
        probe(url, chosen.templates[0], config.timeout_s)
        result = run(config, processes, print_event if events else None)
    show_result(result, rows, as_json=as_json, events=events)
    # After the result, so that it is not lost.
    written = _write_files(samples, hlog, result, chosen)
    fail_if(context, failing, result.summary)
    if not written:
        context.exit(2)


def _write_files(samples: Path | None, hlog: Path | None, result: HttpResult, mix: Mix) -> bool:
    """Write both files, each even if the other fails; False if one could not be written."""
    from loadgen.http import samples as sample_files

    written = True
    for path, write in (
        (samples, partial(sample_files.write_parquet, result=result, mix=mix)),
        (hlog, partial(sample_files.write_hlog, result=result)),
    ):
        try:
            if path is not None:
                write(path)
        except LoadError as error:
            click.echo(f"error: {visible(str(error))}", err=True)
            written = False
    return written
