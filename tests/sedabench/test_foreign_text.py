"""A label, a target, a title is text: in a figure, a table, a page, a spreadsheet, a shell."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sedabench import load_run, report
from sedabench.errors import UserError
from sedabench.experiments.carry_out import draw
from sedabench.experiments.registry import find, of_run
from sedabench.figures import plots, style
from sedabench.progress import standard_output
from sedabench.results.folder import Column, RunWriter
from sedabench.targets.external import load_external
from sedabench.targets.servers import ServerSpec, parse_spec, parse_specs
from tests.sedabench.conftest import FIGURE1, Command, MakeRun
from tests.sedabench.invented_overload import MODELS, write_overload_run
from tests.sedabench.test_peers import a_run
from tests.sedabench.test_swarm_folder import OVERLOAD, whole_run

LABELS = (
    r"$\frac{$", "price$", "$a_b$", r"\$1", "[red]x[/]", "[/]", ":heart:", "=1+1", "@cmd", "+1",
    "-1", "'=q", "<b>&amp;", "--", "\N{SNOWMAN}",
)  # fmt: skip
"""Mathematics, one that is none, markup, emoji, formulas, HTML, the end of a comment of XML."""


def texts_of(svg: Path) -> list[str]:
    """The texts of a figure, which matplotlib repeats in comments."""
    return [html.unescape(text) for text in re.findall(r"<!-- (.*?) -->", svg.read_text(), re.S)]


def shown_by(show: Any) -> str:
    console = standard_output()
    with console.capture() as found:
        show(console)
    return found.get()


@pytest.fixture(scope="module")
def figure1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.sedabench.conftest import write_run

    servers = tuple(ServerSpec(label, "seda") for label in LABELS)
    config = FIGURE1.settings(servers=servers, connections=(1, 16), repeats=1)
    return write_run(tmp_path_factory.mktemp("foreign") / "run", config)


@pytest.fixture(scope="module")
def overload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = next(iter(MODELS.values()))
    models = dict.fromkeys((*LABELS[:2], *LABELS[4:8]), model)
    path = tmp_path_factory.mktemp("foreign") / "overload"
    return write_overload_run(path, models, repeats=1, loads=(0.5, 2.0))


def test_figure1_draws_a_label_as_it_is(figure1: Path) -> None:
    _, svg = FIGURE1.draw(load_run(figure1))
    found = " ".join(texts_of(svg))
    for label in LABELS:
        assert label.replace("--", "- -") in found.replace("--", "- -")


def test_overload_draws_a_label_as_it_is(overload: Path) -> None:
    drawn = find("overload").draw(load_run(overload))
    assert len(drawn) >= 8
    for svg in drawn:
        if svg.suffix == ".svg":
            found = texts_of(svg)
            assert any(r"$\frac{$" in text for text in found), svg
            assert not any("mathdefault" in text for text in found), svg


def test_peers_draws_a_label_as_it_is(tmp_path: Path) -> None:
    run = a_run(*((label, 1, 1000.0, "") for label in LABELS))
    figure = plots.throughput(run)
    assert figure is not None
    figure.savefig(tmp_path / "mine.svg")  # outside of our settings, as in a notebook
    _, svg = style.save(figure, tmp_path / "figure")
    for file in (svg, tmp_path / "mine.svg"):
        assert r"$\frac{$" in texts_of(file)


def test_a_swarm_draws_its_target_as_it_is_and_its_axis_as_numbers(tmp_path: Path) -> None:
    config = replace(OVERLOAD, target=r"http://127.0.0.1:1/$\frac{$")
    _, svg = find("swarm").draw(load_run(whole_run(tmp_path / "run", config)))
    found = texts_of(svg)
    assert any(r"/$\frac{$" in text for text in found)
    assert not any("mathdefault" in text for text in found)


def test_a_table_has_a_label_as_it_is(figure1: Path, overload: Path) -> None:
    for path in (figure1, overload):
        run = load_run(path)
        said = shown_by(lambda c, r=run: of_run(r).show(r, c))
        for label in ("[red]x[/]", "[/]", ":heart:", "=1+1"):
            assert label in said


def test_no_escape_sequence_reaches_a_terminal() -> None:
    from rich.table import Table

    table = Table("a\x1b[31m", title="b\x1b]0;me\x07")
    table.add_row("c\x1b[2J\u202e")
    assert not set(shown_by(lambda console: console.print(table))) & set("\x1b\x07\u202e")


def test_an_error_has_no_escape_sequence(sedabench: Command) -> None:
    for words in (("plot", "a\x1b[31m"), ("serve", "a\x1b[31m"), ("load", "http", "\x1b[31m")):
        done = sedabench(*words)
        assert done.returncode == 2
        assert "\x1b" not in done.stdout + done.stderr
        assert done.stderr.startswith("error: ")


def test_a_label_that_cannot_be_seen_is_refused(tmp_path: Path) -> None:
    for label in ("a\x1b[31m", "a\x00", "a\u202eb"):
        with pytest.raises(UserError, match="cannot be seen"):
            parse_spec(f"{label}=seda", {})
    definition = tmp_path / "mine.toml"
    definition.write_text('[server."a\\u001b[31m"]\ncommand = ["x"]\n')
    with pytest.raises(UserError, match="cannot be seen"):
        load_external([definition])


def test_a_page_has_a_label_as_it_is(figure1: Path) -> None:
    page = report.page([load_run(figure1)])
    assert "<td>&lt;b&gt;&amp;amp;</td>" in page
    assert "<b>&amp;</td>" not in page
    for script in re.findall(r'<script type="application/json">(.*?)</script>', page, re.S):
        assert "<b>&" in json.dumps(json.loads(script))


@pytest.mark.parametrize("text", [*LABELS, "''=1", "'", "''", "'x", "=HYPERLINK(1)", "--writers 1"])
def test_no_cell_begins_a_formula_and_its_value_is_read_back(tmp_path: Path, text: str) -> None:
    columns = [
        Column("trial", "int", "", ""), Column("valid", "bool", "", ""),
        Column("server", "str", "", ""), Column("lag", "int", "", ""),
    ]  # fmt: skip
    manifest = {"experiment": "x", "parameters": {}, "plan": [{"trial": 0, "server": text}]}
    with RunWriter.create(tmp_path / "run", manifest, columns) as writer:
        writer.add({"trial": 0, "valid": True, "server": text, "lag": -5}, {})
    with RunWriter.reopen(tmp_path / "run") as writer:
        writer.update(status="complete")
        writer._write_rows()  # as a resumed run does
    raw = (tmp_path / "run" / "trials.csv").read_text()
    (_, row) = csv.reader(io.StringIO(raw))
    assert row[2][0] not in "=+-@"
    assert row[3] == "-5"
    assert load_run(tmp_path / "run").trials["server"][0] == text


def test_a_folder_of_before_the_apostrophes_is_read(figure1: Path, tmp_path: Path) -> None:
    for name in ("manifest.json", "trials.csv"):
        text = (figure1 / name).read_text()
        (tmp_path / name).write_text(re.sub(r",'(?=[=+@-])", ",", text))
    assert set(load_run(tmp_path).trials["server"]) >= {"=1+1", "@cmd", "-1"}


def test_a_hint_can_be_pasted_whatever_a_server_is_called() -> None:
    text = "seda --x 'it'\"'\"'s'"
    with pytest.raises(UserError) as caught:
        parse_specs([text, text], {})
    word = str(caught.value).partition("a name of its own: ")[2]
    assert shlex.split(word) == [f"NAME={text}"]


def test_a_figure_that_cannot_be_drawn_loses_nothing(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make_run()
    run = load_run(path)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("no\nink")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", broken)
    assert draw(FIGURE1, run) == []
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "warning: a figure cannot be drawn (no ink); the data is kept, try again with: "
        f"sedabench plot {path}"
    )
    assert "damaged" not in line
    assert len(load_run(path).trials) == len(run.trials)
    assert not list(path.glob(".*.tmp"))


def test_a_full_disk_spoils_the_figure_and_not_the_run(make_run: MakeRun) -> None:
    path = make_run()
    (path / ".figure.png.tmp").symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"No space left.*sedabench plot") as caught:
        FIGURE1.draw(load_run(path))
    assert "damaged" not in str(caught.value)
