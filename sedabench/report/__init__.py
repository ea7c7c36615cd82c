"""One HTML page a run, or several runs on one page: everything a folder says, to be read closely.

The page is one file that asks the network for nothing, and says so in its
content security policy: styles and scripts are inside it, and a script whose
digest the policy does not name does not run, whatever text a folder holds.
Tables and sentences are in the HTML, so they are there without JavaScript;
figures are drawn from JSON by `chart.js`, tables sorted by `table.js`.  Sentences
and figures are those of the run's experiment.

    __init__.py            runs in, a file out: what is refused, how the page is put together
    content.py             what a run says in words and tables
    trials.py              the table of trials; invalid ones and warnings, counted
    page.html, page.css    template (Jinja2, autoescaped) and style
    axes.js, chart.js      how a figure is drawn and read
    table.js               how a table is sorted and filtered
"""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadgen.output import visible
from sedabench.errors import UserError, one_line
from sedabench.experiments.registry import of_run, shown_by
from sedabench.report.content import Section, section
from sedabench.results.folder import MANIFEST, Run, load_run, runs_inside, write_atomically

DEFAULT_NAME = "report.html"
GENERATOR = "sedabench report"
_HEAD_BYTES = 1024
"""Within so many bytes of its begin a page says that we made it."""

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""Nothing is loaded; the empty `data:` icon keeps a browser from asking for one."""

_HERE = Path(__file__).parent
SCRIPTS = ("axes.js", "chart.js", "table.js")


def write(
    folders: Sequence[Path], out: Path | None = None, say: Callable[[str], None] = lambda _: None
) -> Path:
    """Report on the runs in `folders`; return the file that was written.

    A suite's folder stands for its runs.  Without `out`: `report.html` in that one
    folder, or for several in the current folder.  A report that is there already is
    replaced, anything else not.

    Raises:
        UserError: a run has no valid trial, or `out` is not ours to write.
        DamagedRunError: a folder cannot be understood.
    """
    if not folders:
        raise UserError("no run to report on; name a run folder")
    given = {folder.resolve() for folder in folders}
    once = {run.resolve(): run for folder in folders for run in _runs_of(folder)}
    if out is None:
        out = (folders[0] if len(given) == 1 else Path()) / DEFAULT_NAME
    runs = [load_run(folder) for folder in once.values()]
    check_reportable(runs)
    check_out(out)
    data = page(runs, say).encode("utf-8", "replace")
    try:
        write_atomically(out, data)
    except OSError as error:
        raise UserError(
            f"{out} cannot be written ({error.strerror}); name another file with --out"
        ) from None
    return out


def _runs_of(folder: Path) -> list[Path]:
    """The folder itself, or the runs in it if it is a suite's."""
    if (folder / MANIFEST).exists():
        return [folder]
    return runs_inside(folder) or [folder]


def check_reportable(runs: Sequence[Run]) -> None:
    """Find out whether there is something to say of each run.

    Raises:
        UserError: one has no valid trial; its text names the others.
    """
    others, first = [], None
    for run in runs:
        try:
            _check_trials(run)
            others.append(str(run.path))
        except UserError as error:
            first = first or error
    if first is not None:
        hint = shlex.join(["sedabench", "report", *others])
        raise UserError(f"{first}; without it: {hint}" if others else str(first))


def _check_trials(run: Run) -> None:
    if not len(run.trials):
        raise UserError(
            f"{run.path} has no finished trial to report on; finish it with "
            f"--resume {shlex.quote(str(run.path))}"
        )
    if not run.trials["valid"].any():
        why = ""
        given = run.trials.get("invalid_reason", ())
        counted = Counter(str(reason) for reason in given if reason)
        for reason, count in counted.most_common(1):
            why = f" (most often, {count} of {len(run.trials)}: {visible(one_line(reason))})"
        raise UserError(
            f"{run.path} has no valid trial to report on{why}; its {len(run.trials)} trials "
            f"are kept in {run.path / 'trials.csv'}"
        )


def check_out(out: Path) -> None:
    """Find out whether a report may be written to `out`: it is free, or an older report.

    Raises:
        UserError: it is something else, or its folder does not exist.
    """
    if str(out) == "-":
        raise UserError("a page is a file of its own; name one with --out, page.html perhaps")
    if out.is_dir():
        raise UserError(f"{out} is a folder; name a file with --out, {out / DEFAULT_NAME} perhaps")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent} is not a folder; make it, or name another file with --out")
    if not out.exists() and not out.is_symlink():
        return
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is no file that can be replaced; name another with --out")
    try:
        with out.open("rb") as file:
            ours = f'content="{GENERATOR}'.encode() in file.read(_HEAD_BYTES)
    except OSError as error:
        raise UserError(f"{out} cannot be read ({error.strerror}); name another file") from None
    if not ours:
        raise UserError(f"{out} exists and is no report of ours; name another file with --out")


def page(runs: Sequence[Run], say: Callable[[str], None] = lambda _: None) -> str:
    """The whole page; what is to be known about how it was made is said.

    Raises:
        DamagedRunError: what a folder holds cannot be understood.
    """
    sections = []
    for number, run in enumerate(runs, start=1):
        experiment = of_run(run)
        say(experiment.note)
        with shown_by(experiment, run, "its report cannot be made"):
            sections.append(section(run, number, experiment))
    return render(sections)


def render(sections: Sequence[Section]) -> str:
    """The template, filled."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from sedabench.machine.facts import versions

    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [(_HERE / name).read_text(encoding="utf-8") for name in SCRIPTS]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()) for text in scripts]
    allowed = " ".join(f"'sha256-{digest.decode()}'" for digest in digests)
    return environment.get_template("page.html").render(
        sections=sections,
        generator=f"{GENERATOR} {versions().get('sedabench', '')}".strip(),
        policy=f"{POLICY}; script-src {allowed}",
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        scripts=[Markup(text) for text in scripts],
    )


def _finalize(value: Any) -> Any:
    """Text of a folder as a reader can see it; what is HTML already stays."""
    return visible(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
