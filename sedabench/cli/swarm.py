"""`sedabench swarm`: options to a swarm; what it does is in `sedabench.swarm.run`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from loadgen.output import tell, visible
from sedabench.errors import StoppedBySignal, UserError

POSITIVE = click.FloatRange(min=0, min_open=True)


@click.command(short_help="Load a server from many machines: sedabench swarm --local 2 ...")
@click.option("--master", "role", flag_value="master", help="Lead workers of other machines.")
@click.option("--worker", "role", flag_value="worker", help="Work for the master at --master-host.")
@click.option("--local", type=click.IntRange(1, 512), metavar="N", help="Lead N workers on this machine.")  # fmt: skip  # noqa: E501
@click.option("--target", metavar="URL", help="http://HOST:PORT/PATH")
@click.option("--rate", type=POSITIVE, metavar="R", help="Requests per second of all workers together.")  # fmt: skip  # noqa: E501
@click.option("--shape", type=click.Choice(["steady", "overload", "spike"]), default="steady", show_default=True, help="Load over time.")  # fmt: skip  # noqa: E501
@click.option("--duration", type=POSITIVE, metavar="S", help="Seconds that count; for overload, of each load.  [default: 10; for spike AT + 3 x FOR]")  # fmt: skip  # noqa: E501
@click.option("--warmup", type=click.FloatRange(min=0), default=1.0, show_default=True, metavar="S", help="Seconds before them.")  # fmt: skip  # noqa: E501
@click.option("--loads", default="0.5,1,1.5,2", show_default=True, help="Shape overload: times the rate.")  # fmt: skip  # noqa: E501
@click.option("--spike", default="3,5,5", show_default=True, metavar="F,AT,FOR", help="Shape spike: F times the rate from AT for FOR seconds.")  # fmt: skip  # noqa: E501
@click.option("--arrivals", type=click.Choice(["poisson", "constant"]), default="poisson", show_default=True, help="How requests are spaced.")  # fmt: skip  # noqa: E501
@click.option("--mix", default="", metavar="NAME|FILE", help="What is asked for: specweb99, dynamic, mixed, or a TOML file (on every worker).  [default: the target's own path]")  # fmt: skip  # noqa: E501
@click.option("--connections", type=click.IntRange(1), default=64, show_default=True, help="Of each worker.")  # fmt: skip  # noqa: E501
@click.option("--timeout", type=POSITIVE, default=5.0, show_default=True, metavar="S", help="After so long a request has failed.")  # fmt: skip  # noqa: E501
@click.option("--slo", type=POSITIVE, default=100.0, show_default=True, metavar="MS", help="Latency within which a reply is good.")  # fmt: skip  # noqa: E501
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Draws arrivals and requests.")  # fmt: skip  # noqa: E501
@click.option("--spin", is_flag=True, help="Workers never sleep: for machines with a core for each.")  # fmt: skip  # noqa: E501
@click.option("--web", "web_port", type=click.IntRange(1, 65535), metavar="PORT", help="Show Locust's web page at this port of 127.0.0.1, and start the run there.")  # fmt: skip  # noqa: E501
@click.option("--admin", default="", metavar="URL", help="The server's admin port: for its columns in trials.csv, and the page's tab Stages.")  # fmt: skip  # noqa: E501
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, metavar="N", help="--master: begin when so many are there.")  # fmt: skip  # noqa: E501
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="--master: where workers connect.")  # fmt: skip  # noqa: E501
@click.option("--master-host", default="127.0.0.1", show_default=True, metavar="HOST", help="--worker: where the master is.")  # fmt: skip  # noqa: E501
@click.option("--port", type=click.IntRange(1, 65535), default=5557, show_default=True, help="Of the master.")  # fmt: skip  # noqa: E501
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=10.0, show_default=True, metavar="S", help="--worker: how long to look for the master.")  # fmt: skip  # noqa: E501
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="The run folder, new or empty.  [default: ./results/swarm/<UTC time>]")  # fmt: skip  # noqa: E501
@click.option("--allow-remote", is_flag=True, help="Allow addresses that are not this machine; every worker needs it too.")  # fmt: skip  # noqa: E501
def swarm(
    role: str | None,
    local: int | None,
    target: str | None,
    rate: float | None,
    duration: float | None,
    web_port: int | None,
    workers: int,
    bind: str,
    master_host: str,
    port: int,
    wait_s: float,
    out: Path | None,
    allow_remote: bool,
    **settings: Any,
) -> None:
    """Load a server with the open-loop engines of several processes or machines.

    A Locust master leads Locust workers; each runs this project's engine at its
    share of the rate. A worker that joins or is lost leaves the total as asked.
    The results are a run folder like any other.

    \b
    How long a shape takes, and with the defaults:
      steady    warm-up and duration                                11 s
      overload  these for each of --loads                        4 x 11 s
      spike     warm-up, AT s before the spike, FOR s of it,
                twice as long after it, to see the recovery         21 s

    \b
    Examples:
      sedabench swarm --local 2 --target http://127.0.0.1:8080/ --rate 5000
      sedabench swarm --local 2 --target http://127.0.0.1:8080/ --rate 5000 --shape spike
      sedabench swarm --master --bind 10.0.0.1 --workers 3 --allow-remote \\
                      --target http://10.0.0.9:8080/ --rate 100000
      sedabench swarm --worker --master-host 10.0.0.1 --allow-remote
    """
    from loadgen.net.targets import is_this_machine
    from sedabench.experiments.carry_out import draw
    from sedabench.experiments.registry import find
    from sedabench.progress import standard_output
    from sedabench.results.folder import new_folder_path
    from sedabench.swarm import run as swarms
    from sedabench.swarm.server import ServerWatch
    from sedabench.swarm.settings import Swarm, own_duration_s

    if (role is None) == (local is None):
        raise UserError("give one of --local N, --master and --worker; see sedabench swarm --help")
    admin = ServerWatch(settings["admin"]).host
    for name, address in (("--bind", bind), ("--master-host", master_host), ("--admin", admin)):
        if allow_remote or not address:
            continue
        if not is_this_machine(address, listening=name == "--bind"):
            raise UserError(f"{name} {address} is not this machine; give --allow-remote if you may")
    if role == "worker":
        with _as_status():
            sys.exit(swarms.work(master_host, port, allow_remote=allow_remote, wait_s=wait_s))
    if target is None or rate is None:
        raise UserError("a swarm needs --target URL and --rate R; see sedabench swarm --help")
    if duration is None:
        duration = own_duration_s(settings["shape"], settings["spike"])
    config = Swarm(
        target=target, rate=rate, duration=duration, allow_remote=allow_remote, **settings
    )
    where = swarms.Where(
        workers=workers if local is None else local, local=local is not None, bind=bind, port=port,
        web_port=web_port,
    )  # fmt: skip
    folder = out or new_folder_path(Path("results"), "swarm")
    with _as_status():
        runs, signum = swarms.conduct(
            config, where, folder, lambda text: click.echo(visible(text), err=True)
        )
    experiment = find("swarm")
    for run in runs:
        experiment.show(run, standard_output())
        for path in draw(experiment, run):
            click.echo(path)
        tell(str(run.path))
    if runs[-1].manifest["status"] != "complete":
        if signum is not None:
            click.echo("interrupted: what was measured until then is kept", err=True)
            sys.exit(128 + signum)
        raise UserError(f"it ended early; what was measured until then is in {runs[-1].path}")


@contextmanager
def _as_status() -> Iterator[None]:
    """click makes 130 of every interruption."""
    try:
        yield
    except StoppedBySignal as stop:
        sys.exit(128 + stop.signum)
