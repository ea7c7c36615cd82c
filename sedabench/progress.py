"""What a person sees while trials run: a bar on a terminal, plain lines elsewhere.

Nothing is drawn while a trial is measured, and no thread refreshes anything:
a bar that redraws itself ten times a second would take its time from the
cores that are being measured.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from loadgen.output import visible

if TYPE_CHECKING:
    from rich.console import Console

Advance = Callable[[str, float, float], None]
"""`(line, estimated seconds left, seconds by which the trial missed its estimate)`."""


def standard_output() -> Console:
    """The console of the command; a table in a pipe or a file is not squeezed to 80 columns."""
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        """Text that others wrote is shown as it is: no markup, no emoji, no escape sequence.

        It falls silent when its reader goes, in a script of one's own; rich would end the process.
        """

        def render_str(self, text: str, **how: Any) -> Text:
            return super().render_str(visible(text), **how)

        def on_broken_pipe(self) -> None:
            self.quiet = True
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    console = Plain(markup=False, emoji=False)
    if console.is_terminal:
        return console
    return Plain(markup=False, emoji=False, width=max(console.width, 120))


class Progress:
    """Writes to `console`; says nothing when there is none."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """A line for the person, above any bar."""
        if self._console is not None:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bar(self, total: int, done: int, left_s: float) -> Iterator[Advance]:
        """A context in which `advance` is called once a finished trial."""
        if self._console is None:
            yield lambda line, left, missed: None
            return
        if not self._console.is_terminal:
            yield self._lines(total, done)
            return
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bar

        overhead = _Overhead()
        with Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None), MofNCompleteColumn(),
            TextColumn("{task.fields[left]} left"),
            console=self._console, auto_refresh=False, transient=True,
        ) as bar:  # fmt: skip
            task = bar.add_task("measuring", total=total, completed=done, left=_clock(left_s))
            bar.refresh()
            count = done

            def advance(line: str, left: float, missed: float) -> None:
                nonlocal count
                count += 1
                left += overhead.learn(missed) * (total - count)
                shown = visible(line.split("  ")[0])
                bar.update(task, advance=1, description=shown, left=_clock(left))
                bar.refresh()

            yield advance

    def _lines(self, total: int, done: int) -> Advance:
        count = done
        overhead = _Overhead()

        def advance(line: str, left: float, missed: float) -> None:
            nonlocal count
            count += 1
            left += overhead.learn(missed) * (total - count)
            self.say(f"[{count:>{len(str(total))}}/{total}] {line}  ({_clock(left)} left)")

        return advance


class _Overhead:
    """How much longer than its estimate a trial takes here, on average."""

    def __init__(self) -> None:
        self._sum, self._n = 0.0, 0

    def learn(self, missed_s: float) -> float:
        self._sum += missed_s
        self._n += 1
        return self._sum / self._n


def _clock(seconds: float) -> str:
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def about(seconds: float) -> str:
    """ "40 s", "6 min", "1 h 27 min"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
