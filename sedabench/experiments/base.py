"""What an experiment is: a sweep of trials with a question.

A class made from `Experiment` says what is asked (its `Settings`), which
trials there are (`plan`), how one is measured (`workload`, or `measure` where
a trial is more than one server under one load), what its columns are, and how
a run of it reads: sentences, a table, figures, the charts of the page, and
what two runs are compared by.  Everything but `workload` has a default, so an
experiment of one's own is a short class in a file (docs/extending.md).

How one is carried out, in `carry_out`, and read, in `registry`, is written
once for all of them.  An experiment holds no state of a run: what the trials
of a run share is its `Rig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from sedabench.analysis import medians
from sedabench.analysis.compare import Question, question_of_columns
from sedabench.errors import UserError
from sedabench.experiments.bench import Bench, check_external, check_shared
from sedabench.experiments.plan import Cell, blocked_order
from sedabench.experiments.settings import Settings as BaseSettings
from sedabench.figures import charts, levels, style
from sedabench.figures.charts import Chart
from sedabench.results.folder import Column, Run, RunWriter
from sedabench.targets.external import ExternalSpec
from sedabench.targets.servers import AnyServer, parse_specs
from sedabench.trials import http_columns
from sedabench.trials.trial import Measured, Workload

if TYPE_CHECKING:
    from matplotlib.figure import Figure

START_S = 1.3
"""About how long processes take to start, connect and stop."""


@dataclass(frozen=True)
class Rig:
    """What the trials of a run share while they are measured."""

    bench: Bench
    settings: Any
    shared: Any
    """What `Experiment.prepare` made."""
    writer: RunWriter

    def server(self, label: str) -> AnyServer:
        found: AnyServer = next(s for s in self.settings.servers if s.label == label)
        return found


class Experiment:
    """A sweep of trials with a question."""

    name: str = ""
    """Names its runs, and their folder under results/; of one's own: the class, if not said."""
    summary: str = ""
    """One line: in lists, and as the question on the page."""
    help: str = ""
    """What --help says, examples included."""
    Settings: ClassVar[type[BaseSettings]] = BaseSettings
    columns: ClassVar[Sequence[Column]] = http_columns.COLUMNS
    """Of `trials.csv`; the fields of a cell of the plan must be among them."""
    level: str = "connections"
    """The column that is swept over; a setting of the same name has its values."""
    question: Question | None = None
    """What two runs are compared by; None: by the level, and what the columns have."""
    definitions: ClassVar[bool] = False
    """Whether servers that are not ours can be compared: then `offered` says what they serve."""
    command: ClassVar[str | None] = None
    """Of an experiment that is carried out by a command of its own: which."""

    where: str = ""
    """Of one in a person's file: path/to/file.py:ClassName."""
    note: str = ""
    """Why a run is read without its own class, where it is."""

    # -- asked ----------------------------------------------------------------------------

    def settings(self, *, quick: bool = False, **changes: Any) -> Any:
        """Settings with these values; the usual servers where none are given.

        Raises:
            UserError: a key that is unknown, or a value that cannot be.
        """
        made = self.Settings.of(changes, quick=quick)
        if made.servers:
            return made
        external = self.external(())
        return made.but(servers=self.usual_servers(made, external, quick=quick))

    def external(self, definitions: Sequence[Path]) -> Mapping[str, ExternalSpec]:
        """Servers that are not ours and can be named."""
        from sedabench.targets.external import load_external

        return load_external(definitions) if self.definitions else {}

    def usual_servers(
        self, settings: Any, external: Mapping[str, ExternalSpec], *, quick: bool
    ) -> tuple[AnyServer, ...]:
        """What is compared when nobody names servers."""
        return parse_specs(("threaded", "eventloop", "seda"), self.usual_options(settings))

    def usual_options(self, settings: Any) -> Mapping[str, tuple[str, ...]]:
        """Options of an architecture that is named without any."""
        return {}

    def offered(self, settings: Any) -> str:
        """Which of its services a server that is not ours is asked for."""
        raise UserError(f"{self.name} compares servers of ours only")

    def check(self, settings: Any) -> None:
        """Find out before the first trial what would make trials fail.

        Raises:
            UserError: a setting that cannot be, or that this machine's limits do not allow.
        """
        if self.definitions:
            check_external(settings.servers, self.offered(settings))
        asked = getattr(settings, "connections", 1)
        check_shared(settings, max(asked) if isinstance(asked, tuple) else asked)

    # -- planned --------------------------------------------------------------------------

    def plan(self, settings: Any) -> list[dict[str, Any]]:
        """The trials in their order: every server at every level, in blocks of random order."""
        labels = [spec.label for spec in settings.servers]
        found = getattr(settings, self.level)
        return blocked_order(labels, found, settings.repeats, settings.seed, self.level)

    def estimate_s(self, settings: Any, cell: Cell) -> float:
        """About how long a trial takes, all in."""
        return float(START_S + settings.warmup_s + settings.duration_s)

    # -- measured -------------------------------------------------------------------------

    def prepare(self, bench: Bench, settings: Any, recorded: Mapping[str, Any]) -> Any:
        """What all trials share; `recorded` is the manifest of a run that is taken up again."""
        return None

    def prepare_to_try(self, bench: Bench, settings: Any) -> Any:
        """The same, as far as it takes to find out whether the servers start."""
        return self.prepare(bench, settings, {})

    def manifest(self, settings: Any, shared: Any) -> dict[str, Any]:
        """What a manifest has to say of this experiment alone."""
        return {}

    def workload(self, settings: Any, shared: Any, cell: Cell) -> Workload:
        """What the load generator sends in a trial, and which service answers."""
        raise UserError(f"{self.name} says of no trial what is sent; it needs a method `workload`")

    def measure(self, rig: Rig, cell: Cell) -> Measured:
        """One trial: here a fresh server and a fresh load generator, and one row."""
        workload = self.workload(rig.settings, rig.shared, cell)
        return rig.bench.measure(rig.server(cell["server"]), workload)

    def describe(self, row: Mapping[str, Any]) -> str:
        """A finished trial in one line."""
        metric = self._metric([column.name for column in self.columns])
        cell = f"{row['server']} {row[self.level]}"
        if row.get(metric) is None:
            return f"{cell}  no result: {row['invalid_reason']}"
        said = next(column.unit for column in self.columns if column.name == metric)
        unit = medians.READS.get(said, said)
        invalid = "" if row["valid"] else f"  invalid: {row['invalid_reason']}"
        return f"{cell}  {medians.number(row[metric])} {unit}{invalid}"

    # -- read -----------------------------------------------------------------------------

    def question_of(self, run: Run) -> Question:
        """What two runs are compared by.

        Raises:
            UserError: the columns have nothing to compare by.
        """
        return self.question or question_of_columns(run, self.level)

    def sentences(self, run: Run) -> list[str]:
        """What was found."""
        return medians.sentences(run, self.level, self._metric(run.trials))

    def table(self, run: Run) -> Any:
        """What `rich` prints before the sentences."""
        return medians.table(run, self.level, self._metric(run.trials))

    def figures(self, run: Run) -> Mapping[str, Callable[[Run], Figure | None]]:
        """What is drawn into the folder: name of the file -> what makes the figure."""
        return {
            "figure": partial(levels.over_level, level=self.level, metric=self._metric(run.trials))
        }

    def charts(self, run: Run) -> list[Chart]:
        """The figures of the page."""
        return charts.of_columns(run, self.level)

    def show(self, run: Run, console: Any) -> None:
        """Print table and sentences to a `rich` console."""
        console.print(self.table(run))
        for text in self.sentences(run):
            console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)

    def draw(self, run: Run) -> list[Path]:
        """(Re)draw every figure of a run into its folder; return the files."""
        return style.draw_all(run, self.figures(run)) if len(run.trials) else []

    def _metric(self, columns: Any) -> str:
        """The column that sentences, table and figure are about."""
        if self.question is not None:
            return self.question.metrics[0]
        return next((m for m in medians.METRICS if m in columns), medians.METRICS[0])
