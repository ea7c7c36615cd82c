"""Settings: frozen dataclasses that are also command line options.

A setting is written once, as a dataclass field made by `option`; parser, help text,
validation and default follow from it.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
import typing
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

MAX_NUMBER = 2**31 - 1
"""The default maximum of every number: what a C int holds, and 68 years in seconds."""


class UsageError(Exception):
    """A mistake that the user can correct.

    Its text is one line: what is wrong, and what to do.  The exit status is 2.
    """


def option(
    default: Any,
    text: str,
    *,
    minimum: float | None = None,
    maximum: float = MAX_NUMBER,
    choices: Sequence[str] | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that becomes the option `--name-of-the-field`."""
    return dataclasses.field(
        default=default,
        metadata={
            "text": text,
            "minimum": minimum,
            "maximum": maximum,
            "choices": choices,
            "metavar": metavar,
        },
    )


def add_options(parser: argparse.ArgumentParser, title: str, cls: type[Any]) -> None:
    """Add every field of the dataclass `cls` to `parser`, in a group called `title`."""
    fields = dataclasses.fields(cls)
    if not fields:
        return
    group = parser.add_argument_group(title)
    hints = typing.get_type_hints(cls)
    for field in fields:
        kind = hints[field.name]
        flag = "--" + field.name.removesuffix("_s").replace("_", "-")
        text = field.metadata["text"]
        if kind is bool:
            group.add_argument(
                flag, dest=field.name, default=field.default,
                action=argparse.BooleanOptionalAction, help=text,
            )  # fmt: skip
            continue
        if kind == tuple[str, ...]:
            group.add_argument(
                flag, dest=field.name, action="append", metavar=field.metadata["metavar"],
                help=f"{text}; repeat it for more",
            )  # fmt: skip
            continue
        shown = "" if field.default in (None, "") else f" (default: {field.default})"
        group.add_argument(
            flag, dest=field.name, default=field.default, choices=field.metadata["choices"],
            metavar=field.metadata["metavar"] or _metavar(field.name, kind),
            type=_converter(kind, field.metadata["minimum"], field.metadata["maximum"]),
            help=text + shown,
        )  # fmt: skip


def _metavar(name: str, kind: Any) -> str | None:
    """The unit in which the name ends, else N for a number, else argparse's default."""
    unit = {"s": "SECONDS", "ms": "MS", "bytes": "BYTES", "kb": "KB", "port": "PORT"}.get(
        name.rpartition("_")[2]
    )
    return unit or ("N" if kind in (int, float) else None)


def take_options(namespace: argparse.Namespace, cls: type[T]) -> T:
    """Make `cls` from what the parser found for its fields."""
    fields = dataclasses.fields(typing.cast(Any, cls))
    values = {field.name: getattr(namespace, field.name) for field in fields}
    hints = typing.get_type_hints(cls)
    for name, value in values.items():
        if hints[name] == tuple[str, ...]:  # argparse gives a list of repeated options, or None
            values[name] = tuple(value or ())
    return cls(**values)


def _converter(kind: Any, minimum: float | None, maximum: float) -> typing.Callable[[str], Any]:
    """A converter for one value that checks type and bounds, with readable messages."""
    if typing.get_origin(kind) in (types.UnionType, typing.Union):  # `int | None`
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if kind is str:
        return str

    def convert(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            name = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {name}") from None
        if value != value or (minimum is not None and value < minimum):
            raise argparse.ArgumentTypeError(f"{text} is too small; it must be at least {minimum}")
        if value > maximum:
            raise argparse.ArgumentTypeError(f"{text} is too large; it must be at most {maximum}")
        return value

    return convert
