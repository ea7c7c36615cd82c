"""What is said beside the output, for the person at the terminal: one line on standard error."""

from __future__ import annotations

import click

from loadgen.output import visible
from sedabench.errors import one_line


def say_note(text: str) -> None:
    """Nothing when there is nothing to say."""
    if text:
        click.echo(f"note: {visible(one_line(text))}", err=True)
