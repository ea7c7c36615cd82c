"""Commands whose errors are one line on standard error."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from loadgen.errors import LoadError
from loadgen.interruption import number_of
from loadgen.output import visible


def _end_on_one_line(context: click.Context, error: click.UsageError) -> None:
    """Print `error: ...` and exit with status 2; click itself would print four lines."""
    what = visible(" ".join(error.format_message().split())).rstrip(".")
    click.echo(f"error: {what}; see `{context.command_path} --help`", err=True)
    context.exit(2)


class OneLineCommand(click.Command):
    """Reports a usage error on one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            _end_on_one_line(ctx, error)
            raise


class OneLineGroup(OneLineCommand, click.Group):
    """Reports an unknown subcommand on one line; the suggestion is click's own."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            _end_on_one_line(ctx, error)
            raise


@contextmanager
def one_line_errors(context: click.Context) -> Iterator[None]:
    """End the command with one line on stderr for a LoadError or an interruption."""
    try:
        yield
    except LoadError as error:
        click.echo(f"error: {visible(str(error))}", err=True)
        context.exit(2)
    except KeyboardInterrupt as stop:
        click.echo("interrupted: nothing of what was measured is kept", err=True)
        context.exit(128 + number_of(stop))
