"""What a shell offers for words that click does not know by itself: servers and services.

The mechanism is click's; docs/README.md says how it is switched on.  Nothing
heavy is imported here: it runs at every press of the tab key.
"""

from __future__ import annotations

from collections.abc import Iterable

import click
from click.shell_completion import CompletionItem


def servers(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For --server: ours, those that come with the project where they can be compared, a file."""
    from sedabench.targets.external import load_external
    from sedabench.targets.ours import architectures

    with_others = any(param.name == "definitions" for param in ctx.command.params)
    return _names([*architectures(), *(load_external() if with_others else ())], incomplete)


def serving(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For `serve` and `graph`: an architecture, then --service and its name."""
    from sedabench.targets.ours import architectures, services

    before = ctx.params.get("arguments") or ()
    if not before:
        return _names(architectures(), incomplete)
    return _names(services() if before[-1] == "--service" else ["--service"], incomplete)


def _names(names: Iterable[str], incomplete: str) -> list[CompletionItem]:
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
