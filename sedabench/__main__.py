"""`python -m sedabench` is `sedabench`, and this is where both begin.

The command line takes a tenth of a second to import; what ends it must be heard before.
"""

from __future__ import annotations

from typing import NoReturn

from loadgen.interruption import guarded, leave, leave_at_once


def main() -> NoReturn:
    leave_at_once()
    leave(guarded(_main))


def _main() -> int:
    from sedabench.cli.main import main

    main()


if __name__ == "__main__":
    main()
