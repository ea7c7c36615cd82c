"""How a benchmark shows what it has measured: it took minutes, and exists nowhere else."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from loadgen.output import tell


def show(table: Table, width: int) -> None:
    """Print a table; on standard error if standard output takes nothing."""
    console = Console(width=width)
    with console.capture() as shown:
        console.print(table)
    tell(shown.get().rstrip("\n"))
