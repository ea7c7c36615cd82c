"""Every command says how it is used, and the shell can finish its words."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from loadgen.cli.load import load
from sedabench.cli.main import cli
from sedabench.experiments.registry import find


def every_command(command: click.Command = cli, *names: str) -> Iterator[tuple[str, ...]]:
    """The words that name it, for each command there is."""
    yield names
    group = load if names == ("load",) else command  # which `sedabench load` only stands for
    for name in group.list_commands(click.Context(group)) if isinstance(group, click.Group) else ():
        found = group.get_command(click.Context(group), name)
        assert found is not None
        yield from every_command(found, *names, name)


@pytest.mark.parametrize("names", list(every_command()), ids=" ".join)
def test_the_help_of_every_command_has_an_example(names: tuple[str, ...]) -> None:
    if names == ("serve",):  # it is another program's: tests/conformance/test_command_line.py
        return
    shown = CliRunner().invoke(cli, [*names, "--help"], prog_name="sedabench")
    assert shown.exit_code == 0
    _, said, examples = shown.output.partition("xample" if names else "Start here")
    assert said
    assert " ".join(("sedabench", *names)) in examples


@pytest.mark.parametrize("experiment", ["figure1", "overload", "peers"])
def test_the_help_of_an_experiment_has_the_defaults_of_its_settings(experiment: str) -> None:
    settings = find(experiment).Settings
    full, short = settings.of({}), settings.of({}, quick=True)
    shown = CliRunner().invoke(cli, ["run", experiment, "--help"], prog_name="sedabench").output
    words = " ".join(shown.split())
    for flag, value, quick in (
        ("--warmup S", full.warmup_s, short.warmup_s),
        ("--repeats N", full.repeats, short.repeats),
    ):
        said = words.partition(flag)[2].partition("]")[0]
        assert said.endswith(f"[default: {value:g}; {quick:g} with --quick")


def finish(*words: str) -> list[str]:
    """What bash is offered for the last word."""
    done = subprocess.run(
        [sys.executable, "-c", "from sedabench.cli.main import main; main()"],
        env={
            **os.environ, "_SEDABENCH_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(("sedabench", *words)), "COMP_CWORD": str(len(words)),
        },
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("com",), "plain,compare"),
        (("run", "fig"), "plain,figure1"),
        (("load", "h"), "plain,http"),
        (("load", "http", "--ra"), "plain,--rate"),
        (("serve", "ev"), "plain,eventloop"),
        (("serve", "seda", "--service", "w"), "plain,web"),
        (("graph", "s"), "plain,seda"),
        (("run", "figure1", "--server", "th"), "plain,threaded"),
        (("run", "peers", "--server", "ng"), "plain,nginx"),
        (("run", "overload", "--server", "examples/own"), "file,examples/own"),
        (("run", "figure1", "--server", "ng"), "file,ng"),
    ],
)
def test_the_shell_can_finish(words: tuple[str, ...], offered: str) -> None:
    assert finish(*words) == [offered]
