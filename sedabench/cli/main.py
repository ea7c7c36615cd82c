"""The command: a thin layer that turns words into calls, and errors into one line.

Nothing is decided here.  A verb's work is a function elsewhere that a notebook
can call too; `run` has a file of its own (`sedabench.cli.run`).  Every error
that a person can cause ends in `main`, as `error: what; what to do` and exit
status 2; standard output that is closed or full is the care of `loadgen.output`.
Heavy imports happen inside the verb that needs them.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

import click

from loadgen import output
from loadgen.interruption import INTERRUPTIONS, guarded, number_of
from sedabench.cli import completion
from sedabench.cli.calibrate import calibrate
from sedabench.cli.compare import compare
from sedabench.cli.report import report
from sedabench.cli.run import run
from sedabench.cli.swarm import swarm
from sedabench.errors import SettingError, UserError, nearest, one_line

WORKLOADS = {
    "burst": "closed loop: bursts of 1000 packets of 8 KB, one 32-byte ACK each",
    "http": "closed or open loop: one path, or a mix (dynamic, mixed, specweb99, or one's own)",
}
"""What `load` sends; said here so that listing it imports no engine."""


class _Verbs(click.Group):
    """A group that suggests the nearest name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            hint = nearest(name, self.list_commands(ctx))
            raise click.UsageError(f"unknown command {name!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


class _Load(click.Command):
    """Stands for loadgen's own command; imports it only when it is invoked."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:  # fmt: skip
        from loadgen.cli.load import load

        command: click.Command = load
        return command.make_context(info_name, args, parent, **extra)


@click.group(
    cls=_Verbs,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="sedabench", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Threads, events or stages: measure servers that differ in nothing but their scheduler.

    \b
    Start here:
      sedabench doctor                 what on this machine would spoil a measurement
      sedabench run figure1 --quick    measure three servers, draw the figure (a minute or two)
      sedabench list                   what there is to serve, send and run

    Every command has --help with an example. Results go to ./results of the current folder.
    Shell completion: eval "$(_SEDABENCH_COMPLETE=bash_source sedabench)" (or zsh_source,
    fish_source).
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


cli.add_command(run)
cli.add_command(compare)
cli.add_command(calibrate)
cli.add_command(report)
cli.add_command(swarm)
cli.add_command(
    _Load("load", short_help="Send load to a server: sedabench load http --target URL.")
)


@cli.command("list", short_help="List what there is to serve, send and run.")
def list_() -> None:
    """List architectures, services, workloads, experiments and suites.

    \b
    Example:
      sedabench list
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from sedabench.experiments.registry import EXPERIMENTS, find
    from sedabench.progress import standard_output
    from sedabench.suites.file import known_suites
    from sedabench.targets.ours import architectures, services

    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in ("kind", "name", "what it is"):
        table.add_column(heading, no_wrap=heading == "name")
    kinds = {
        "architecture": {name: _summary(where) for name, where in architectures().items()},
        "service": {name: _summary(where) for name, where in services().items()},
        "workload": WORKLOADS,
        "experiment": {name: find(name).summary for name in EXPERIMENTS},
        "suite": known_suites(),
    }
    for kind, entries in kinds.items():
        for index, (name, summary) in enumerate(entries.items()):
            table.add_row("" if index else kind, name, summary)
        table.add_section()
    standard_output().print(table)


def _summary(where: str) -> str:
    """The `summary` of a registered "module:class"."""
    import importlib

    module, _, name = where.partition(":")
    return str(getattr(getattr(importlib.import_module(module), name), "summary", ""))


@cli.command(
    short_help="Run one server: sedabench serve eventloop --port 8080.",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": True},
)
@click.option("--python", default=sys.executable, metavar="PATH", help="The server's interpreter.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, shell_complete=completion.serving)
def serve(python: str, arguments: tuple[str, ...]) -> NoReturn:
    """Run one server in the foreground: sedabench serve eventloop --port 8080.

    Everything but --python goes to `python -m servers` as it is, --help too:
    which options there are depends on the architecture and the service. Either
    can be one's own, named as path/to/file.py:ClassName.
    """
    from sedabench.machine.facts import probe_interpreter

    environment = probe_interpreter(python).environment
    environment["SEDABENCH_PROG"] = "sedabench serve"
    if {"-h", "--help"} & set(arguments):
        click.echo("--python PATH, anywhere: the server's interpreter (default: this one)\n")
    sys.stdout.flush()
    # Held back until the server hears them: `servers.signals`.
    signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTIONS)
    try:
        os.execvpe(python, [python, "-P", "-m", "servers", *arguments], environment)
    except OSError as error:
        raise UserError(
            f"{python!r} cannot be started ({error.strerror}); give --python the path of a Python"
        ) from None


@cli.command(
    short_help="Draw a server's stages: sedabench graph seda --service web.",
    context_settings={"ignore_unknown_options": True},
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE",
    help="Write FILE: .mmd (Mermaid), .dot, or with Graphviz .svg or .png. Without: Mermaid text.",
)  # fmt: skip
@click.argument(
    "arguments", nargs=-1, required=True, type=click.UNPROCESSED, metavar="SERVER...",
    shell_complete=completion.serving,
)  # fmt: skip
def graph(out: Path | None, arguments: tuple[str, ...]) -> None:
    """Draw the stages of a server and where each sends its events.

    SERVER is what `sedabench serve` takes: an architecture and its options.

    \b
    Examples:
      sedabench graph seda --service web
      sedabench graph seda --service web --out stages.svg
    """
    from sedabench.live.inside import describe, draw_graph

    click.echo(draw_graph(describe(arguments), out).rstrip())


@cli.command(short_help="Watch a running server: sedabench top 127.0.0.1:8081.")
@click.argument("url", metavar="ADMIN_URL")
@click.option("--interval", default=1.0, show_default=True, type=click.FloatRange(0.1, 3600),
              help="Seconds between pictures.")  # fmt: skip
@click.option("--times", type=click.IntRange(1), help="Stop after so many; default: until Ctrl-C.")
def top(url: str, interval: float, times: int | None) -> None:
    """Watch a running server: queue, threads, batch, rate, wait and service time of each stage.

    ADMIN_URL is where its --admin-port listens. Times are averages over the
    events of the interval; "busy" is how many threads' time went into the
    stage's handler, and "lost" counts events since the server's start.

    \b
    Example, with `sedabench serve seda --service web --admin-port 8081` running:
      sedabench top 127.0.0.1:8081
    """
    from sedabench.live.inside import top as watch
    from sedabench.progress import standard_output

    watch(url, standard_output(), interval, times)


@cli.command(short_help="Redraw the figures of a run.")
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def plot(folder: Path) -> None:
    """Redraw the figures of a run from its trials.csv, and print its table again.

    \b
    Example:
      sedabench plot results/figure1/2026-01-31T12-00-00Z
    """
    from sedabench.cli.notes import say_note
    from sedabench.experiments.registry import of_run, shown_by
    from sedabench.progress import standard_output
    from sedabench.results.folder import load_run

    loaded = load_run(folder)
    experiment = of_run(loaded)
    say_note(experiment.note)
    with shown_by(experiment, loaded, "it cannot be drawn"):
        drawn = experiment.draw(loaded)
        if drawn:
            experiment.show(loaded, standard_output())
    if not drawn:
        raise UserError(
            f"{folder} has no trial to draw yet; finish it with --resume {quote(str(folder))}"
        )
    for path in drawn:
        click.echo(path)


@cli.command(short_help="Say what would spoil a measurement here.")
@click.option("--strict", is_flag=True, help="Exit with status 1 when something warns.")
def doctor(strict: bool) -> None:
    """Say what on this machine would spoil a measurement, and what to do about it.

    \b
    Examples:
      sedabench doctor
      sedabench doctor --strict && sedabench run figure1
    """
    from sedabench.machine.doctor import examine, table
    from sedabench.progress import standard_output

    checks = examine()
    standard_output().print(table(checks))
    warned = [check.name for check in checks if not check.ok]
    if warned:
        click.echo(f"{len(warned)} of {len(checks)} checks warn: {', '.join(warned)}")
        sys.exit(1 if strict else 0)
    click.echo(f"all {len(checks)} checks are fine")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The console script."""
    sys.exit(guarded(lambda: output.command(lambda: _main(arguments))))


def _main(arguments: Sequence[str] | None) -> int:
    try:
        status = cli.main(
            args=None if arguments is None else list(arguments),
            prog_name="sedabench",
            standalone_mode=False,
        )
        return status if isinstance(status, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _fail(_with_hint(error))
    except SettingError as error:  # of a command that is not made of settings
        return _fail(f"--{error.key.replace('_', '-')} {error.text}")
    except UserError as error:
        return _fail(str(error))
    except click.Abort as abort:  # what click makes of an interruption
        stop = abort.__cause__
        return 128 + (number_of(stop) if isinstance(stop, KeyboardInterrupt) else signal.SIGINT)
    except KeyboardInterrupt as stop:
        return 128 + number_of(stop)
    except OSError as error:  # a full disk, a folder taken away
        where = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{where}; what was finished before is kept")


def _with_hint(error: click.ClickException) -> str:
    """click's message, and where to read what is right."""
    text = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    if ";" in text or "?" in text or context is None:
        return text
    return f"{text}; see {context.command_path} --help"


def _fail(text: str) -> int:
    print(f"error: {output.visible(one_line(text))}", file=sys.stderr)
    return 2
