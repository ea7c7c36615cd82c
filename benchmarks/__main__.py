"""`python -m benchmarks [NAME ...] [--rounds N] [--seconds S]`."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass

import click

from loadgen.output import command
from sedabench.machine.facts import cpu_model

BENCHMARKS = (
    "bandwidth",
    "connections",
    "web",
    "load_http",
    "queue_cost",
    "controllers",
    "samples",
)


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    rounds: int
    seconds: float


@click.command(help=__doc__)
@click.argument("names", nargs=-1, type=click.Choice(BENCHMARKS))
@click.option("--rounds", default=5, show_default=True, help="Repeats, interleaved.")
@click.option("--seconds", default=2.0, show_default=True, help="Length of one measurement.")
def main(names: tuple[str, ...], rounds: int, seconds: float) -> None:
    print(f"{cpu_model()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.2f}")
    for name in names or BENCHMARKS:
        print(f"\n## {name}")
        importlib.import_module(f"benchmarks.{name}").main(Effort(rounds, seconds))


if __name__ == "__main__":
    command(main)
