"""Settings: a dataclass becomes command line options, and comes back from them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import pytest

from servers.options import add_options, option, take_options


@dataclass(frozen=True)
class Example:
    count: int = option(3, "how many", minimum=1, maximum=10)
    wait_s: float = option(0.5, "how long", minimum=0)
    limit: int | None = option(None, "at most", minimum=1)
    colour: str = option("red", "which", choices=("red", "blue"))
    loud: bool = option(False, "say so")


def parse(*arguments: str) -> Example:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, "examples", Example)
    return take_options(parser.parse_args(arguments), Example)


def test_without_options_everything_is_as_the_dataclass_has_it() -> None:
    assert parse() == Example()


def test_every_option_arrives_in_its_type() -> None:
    given = parse(
        "--count", "7", "--wait", "1e-2", "--limit", "4", "--colour", "blue", "--loud"
    )  # fmt: skip
    assert given == Example(count=7, wait_s=0.01, limit=4, colour="blue", loud=True)


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--count", "0", "at least 1"),
        ("--count", "11", "at most 10"),
        ("--count", "1.5", "not a whole number"),
        ("--wait", "-1", "at least 0"),
        ("--wait", "nan", "at least 0"),
        ("--wait", "inf", "at most"),
        ("--limit", "0", "at least 1"),
        ("--limit", str(2**31), "at most"),
        ("--colour", "green", "invalid choice"),
    ],
)
def test_a_value_that_will_not_do_is_told_why(flag: str, value: str, says: str) -> None:
    with pytest.raises(argparse.ArgumentError, match=says):
        parse(flag, value)


def test_help_shows_defaults_and_units(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        parse("--help")
    text = capsys.readouterr().out
    assert "how many (default: 3)" in text
    assert "--wait SECONDS" in text
    assert "--no-loud" in text
