"""The command `load`, also mounted as `sedabench load`: one file and one subcommand per workload.

The engine of a workload is imported when it runs, so that `--help` and
completion stay quick.

Exit statuses: 0 measured (valid or not: the result says), 1 a --fail-if condition holds, 2 nothing
could be measured, with one line on stderr that says why, or the result could not be written to
standard output and is on stderr, 130 interrupted, 141 nobody reads standard output.
"""

from __future__ import annotations

import click

from loadgen.cli.burst import burst
from loadgen.cli.command import OneLineGroup
from loadgen.cli.http import http
from loadgen.cli.samples import samples


@click.group(
    "load",
    cls=OneLineGroup,
    epilog="""\b
Examples, each with its server running in another terminal:
  sedabench load http --target http://127.0.0.1:8080/healthz --rate 1000
  sedabench load burst --target 127.0.0.1:8080 --connections 64""",
    context_settings={"help_option_names": ["-h", "--help"]},
)
def load() -> None:
    """Send load to a running server and report what it handled.

    Each workload is a command with its own --help.
    """


load.add_command(http)
load.add_command(burst)
load.add_command(samples)
