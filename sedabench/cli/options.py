"""An experiment's settings as options of a command, and its complaints in the options' names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args, get_origin

import click

from sedabench.cli import completion
from sedabench.errors import SettingError, UserError
from sedabench.experiments.base import Experiment
from sedabench.experiments.settings import LEVELS, Settings, about, option_of

LAST = tuple(Settings.model_fields)
"""What every experiment has comes after what one alone has."""


def options(experiment: Experiment) -> list[click.Parameter]:
    """Every option of the command that runs an experiment."""
    settings = experiment.Settings
    made: list[click.Parameter] = [
        click.Option(["--quick"], is_flag=True, help=settings.QUICK_HELP),
        _servers(settings),
    ]
    if experiment.definitions:
        made.append(_definitions())
    fields = [key for key in settings.model_fields if key != "servers"]
    own = [key for key in fields if key not in LAST]
    made += [_option(settings, key) for key in own]
    made += [_option(settings, key) for key in LAST if key in fields]
    folder = click.Path(path_type=Path)
    out = f"The run folder, new or empty.  [default: ./results/{experiment.name}/<UTC time>]"
    resume = "Finish an interrupted run with its own settings; takes no other option."
    made.append(click.Option(["--out"], type=folder, metavar="DIR", help=out))
    made.append(click.Option(["--resume", "resumed"], type=folder, metavar="DIR", help=resume))
    return made


def _servers(settings: type[Settings]) -> click.Option:
    field = settings.model_fields["servers"]
    return click.Option(
        ["--server", "servers"], multiple=True, shell_complete=completion.servers,
        metavar=about(field).metavar, help=field.description,
    )  # fmt: skip


def _definitions() -> click.Option:
    return click.Option(
        ["--definitions"], multiple=True, type=click.Path(path_type=Path), metavar="FILE",
        help="A TOML file with further servers: for --server, or without it compared beside the "
        "default where they offer the workload; repeat it.",
    )  # fmt: skip


def _option(settings: type[Settings], key: str) -> click.Option:
    field = settings.model_fields[key]
    names = [option_of(settings, key), key]
    text = f"{field.description or key.replace('_', ' ')}{_default(settings, key)}"
    if field.annotation is bool:
        return click.Option([f"{names[0]}/--no-{names[0][2:]}", key], default=None, help=text)
    return click.Option(
        names, type=_Written(key, field.annotation), help=text,
        metavar=about(field).metavar or key.rpartition("_")[2].upper(),
    )  # fmt: skip


def _default(settings: type[Settings], key: str) -> str:
    """ "  [default: FULL; QUICK with --quick]", unless the help says it."""
    field = settings.model_fields[key]
    full = _written(field.default)
    quick = _written(settings.QUICK.get(key, field.default))
    if not full or "[default" in (field.description or ""):
        return ""
    text = full if quick == full else f"{full}; {quick} with --quick"
    return f"  [default: {text}]"


def _written(value: Any) -> str:
    """A setting as a person writes it behind its option; "" when there is none."""
    if value is True or value is False:
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(_written, value))
    return f"{value:g}" if isinstance(value, float) else "" if value is None else str(value)


class _Written(click.ParamType[Any]):
    """A setting as it is written at the command line: numbers, and lists of them by commas."""

    name = "setting"

    def __init__(self, key: str, kind: Any) -> None:
        self._key = key
        self._one = get_args(kind)[0] if get_origin(kind) is tuple else kind
        self._list = get_origin(kind) is tuple
        self._levels = kind in LEVELS

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            made = [self._made(part) for part in (value.split(",") if self._list else [value])]
        except ValueError:
            meaning = {int: "a whole number", float: "a number"}.get(self._one, "a value")
            if self._list:
                meaning = {int: "whole numbers", float: "numbers"}.get(self._one, "values")
                meaning += ", as in 1,16,64"
            raise SettingError(self._key, f"must be {meaning}, not {value!r}") from None
        return tuple(made) if self._list else made[0]

    def _made(self, text: str) -> Any:
        return self._one(text) if self._one in (int, float) else text


@contextmanager
def in_options(settings: type[Settings]) -> Iterator[None]:
    """Complaints about a setting raised inside name the option."""
    try:
        yield
    except SettingError as error:
        text = f"{option_of(settings, error.key)} {error.text}"
        raise UserError(text) from error.__cause__
