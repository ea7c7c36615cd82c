"""`python -m loadgen WORKLOAD --target HOST:PORT ...`: the command `load` on its own."""

from __future__ import annotations

from typing import NoReturn

from loadgen.interruption import guarded, leave, leave_at_once


def main() -> NoReturn:
    from loadgen.cli.load import load
    from loadgen.output import command

    command(lambda: load(prog_name="python -m loadgen"))


if __name__ == "__main__":
    leave_at_once()
    leave(guarded(main))
