"""The page of a run, without a browser: what it says, what it escapes, what it refuses."""

from __future__ import annotations

import html
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from loadgen.output import visible
from sedabench.analysis import figure1 as summary
from sedabench.analysis import overload_findings as findings_overload
from sedabench.cli.report import report
from sedabench.errors import DamagedRunError, UserError
from sedabench.report import page, write
from sedabench.results.folder import load_run
from tests.sedabench.conftest import MakeRun
from tests.sedabench.invented_overload import write_overload_run
from tests.sedabench.test_swarm_folder import whole_run

VOID = {"meta", "link", "input", "br", "img"}


class Parsed(HTMLParser):
    """The page's text, its links out, its JSON, its ids; fails where tags do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.asks: list[str] = []
        self.targets: list[str] = []
        self.words: list[str] = []
        self.json: list[dict[str, Any]] = []
        self.tags: list[str] = []
        self._json = False
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        self._json = found.get("type") == "application/json"
        if tag not in VOID:
            self.open.append(tag)
        if "id" in found:
            self.ids.append(str(found["id"]))
        for name in ("src", "href", "action", "poster", "data"):
            value = found.get(name)
            if value is not None and value.startswith("#"):
                self.targets.append(value[1:])
            elif value is not None and not value.startswith("data:"):
                self.asks.append(value)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._json and self.open[-1] == "script":
            self.json.append(json.loads(data))
        elif self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def overload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_overload_run(
        tmp_path_factory.mktemp("overload") / "run",
        loads=(0.5, 1.0, 2.0, 3.0), repeats=3, invalid={12: "send lag p99 was 61 ms"},
    )  # fmt: skip


def test_the_page_says_what_was_found_asked_and_measured(make_run: MakeRun) -> None:
    run = load_run(make_run(invalid=[(3, "the load generator refused 7 bursts")]))
    seen = Parsed(page([run]))
    for sentence in summary.sentences(run):
        assert sentence in seen.text
    assert f"{len(run.trials) - 1} of {len(run.trials)}" in seen.text
    assert "the load generator refused 7 bursts" in seen.text
    assert run.manifest["machine"]["cpu"] in seen.text
    assert run.manifest["machine"]["kernel"] in seen.text
    for column in run.manifest["columns"].values():
        assert " ".join(column["meaning"].split()) in seen.text


def test_an_overload_run_has_its_sentences_and_its_figures(overload: Path) -> None:
    run = load_run(overload)
    text = page([run])
    seen = Parsed(text)
    for sentence in findings_overload.sentences(run):
        assert sentence in seen.text
    titles = [panel["title"] for chart in seen.json for panel in chart["panels"]]
    for title in ("throughput", "99th percentile", "at 2 times the capacity", "admission limit"):
        assert title in titles
    assert "eventloop: requests/s" in titles


def test_a_figure_holds_the_medians_that_are_printed(make_run: MakeRun) -> None:
    run = load_run(make_run(invalid=[(3, "broken")]))
    drawn = Parsed(page([run])).json[0]["panels"][0]["series"]
    for cell in summary.cells(run):
        assert cell.bandwidth_bps is not None
        series = next(one for one in drawn if one["key"] == cell.server)
        at = series["x"].index(cell.connections)
        assert series["y"][at] == pytest.approx(cell.bandwidth_bps.value / 1e9, rel=1e-4)
        assert series["low"][at] == pytest.approx(cell.bandwidth_bps.low / 1e9, rel=1e-4)
        assert series["valid"][at] == cell.valid
        assert series["trials"][at] == cell.trials
    invalid = [p for one in drawn for p in one["points"] if not p["valid"]]
    assert [(p["trial"], p["reason"]) for p in invalid] == [(3, "broken")]


def test_the_page_asks_for_nothing_and_its_links_lead_somewhere(overload: Path) -> None:
    text = page([load_run(overload)])
    seen = Parsed(text)
    assert seen.asks == []
    assert set(seen.targets) <= set(seen.ids)
    assert not re.search(r"url\((?!#)|@import|https?://|fetch\(|XMLHttpRequest", text)
    assert "default-src 'none'" in html.unescape(text)


def test_several_runs_are_sections_with_contents(make_run: MakeRun, overload: Path) -> None:
    seen = Parsed(page([load_run(make_run("one")), load_run(overload)]))
    assert len(seen.ids) == len(set(seen.ids))
    assert {"run1", "run2"} <= set(seen.targets)


@pytest.mark.parametrize(
    "odd",
    ["<script>alert(1)</script>", "</script><b>", "{{ 7*7 }}{% raw %}", "&amp;\"'`", "]]>--><!--"],
)
def test_odd_text_is_text(make_run: MakeRun, odd: str) -> None:
    path = make_run(invalid=[(2, f"because {odd}")])
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["machine"]["cpu"] = manifest["warnings"] = [f"warned {odd}"]
    manifest["columns"]["steal"]["meaning"] = f"meant {odd}"
    (path / "manifest.json").write_text(json.dumps(manifest))
    plain, seen = Parsed(page([load_run(make_run("plain"))])), Parsed(page([load_run(path)]))
    for said in (f"because {odd}", f"warned {odd}", f"meant {odd}"):
        assert said in seen.text
    assert seen.tags.count("script") == plain.tags.count("script")


def test_text_that_is_half_a_character_is_written_all_the_same(
    make_run: MakeRun, tmp_path: Path
) -> None:
    path = make_run()
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["machine"]["cpu"] = "half \ud800, turned \u202e, nothing \x00"
    (path / "manifest.json").write_text(json.dumps(manifest))
    out = write([path], tmp_path / "page.html")
    assert "half \ufffd, turned \ufffd, nothing \ufffd" in out.read_text(encoding="utf-8")


@given(st.text())
def test_what_cannot_be_seen_is_made_visible_and_nothing_is_lost(text: str) -> None:
    shown = visible(text)
    assert len(shown) == len(text)
    assert shown.replace("\n", "").isprintable()


def test_an_experiment_that_nobody_knows_has_a_page_too(overload: Path, tmp_path: Path) -> None:
    path = tmp_path / "other"
    path.mkdir()
    manifest = json.loads((overload / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, "experiment": "of mine"}))
    (path / "trials.csv").write_bytes((overload / "trials.csv").read_bytes())
    seen = Parsed(page([load_run(path)]))
    assert [panel["title"] for panel in seen.json[0]["panels"]] == ["throughput", "goodput"]


def test_a_swarm_has_a_sentence_a_trial_and_its_time_line(tmp_path: Path) -> None:
    run = load_run(whole_run(tmp_path / "swarm"))
    seen = Parsed(page([run]))
    for trial, asked in ((0, 500), (1, "1,000")):
        assert f"Trial {trial}: {asked} requests/s were asked of 2 workers" in seen.text
    assert "median requests/s" not in seen.text
    timeline, *over_the_loads = seen.json
    offered = timeline["panels"][0]["series"][0]
    assert offered["key"] == "offered"
    assert set(offered["y"][:7]) == {500.0}
    axes = {panel["x"]["label"] for one in over_the_loads for panel in one["panels"]}
    assert axes == {"load (times the rate asked for)"}


def test_a_curve_is_broken_where_no_trial_is_valid(make_run: MakeRun) -> None:
    plan = load_run(make_run("whole")).manifest["plan"]
    cell = {"server": "seda", "connections": 64}
    lost = [trial["trial"] for trial in plan if cell.items() <= trial.items()]
    seen = Parsed(page([load_run(make_run(invalid=[(number, "lost") for number in lost]))]))
    seda = next(s for s in seen.json[0]["panels"][0]["series"] if s["key"] == "seda")
    at = seda["x"].index(64)
    assert (seda["y"][at], seda["low"][at], seda["high"][at]) == (None, None, None)
    assert (seda["valid"][at], seda["trials"][at]) == (0, len(lost))
    assert None not in seda["y"][:at]


def test_how_to_reproduce_it_is_a_command_that_can_be_pasted(
    make_run: MakeRun, tmp_path: Path
) -> None:
    def said(command: list[str], *, name: str) -> str:
        path = make_run(name)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest.update(command=command, git={"commit": "c0ffee", "dirty": True})
        (path / "manifest.json").write_text(json.dumps(manifest))
        return Parsed(page([load_run(path)])).text.partition("How to reproduce it")[2]

    text = said(["sedabench", "run", "figure1", "--quick", "--out", "before"], name="one")
    assert "commit c0ffee , with changes that were not committed" in text
    assert "sedabench run figure1 --quick --out results/again" in text
    assert f"sedabench compare {tmp_path / 'one'} results/again" in text
    text = said(["sedabench", "run", "suites/quick.toml"], name="first")
    assert "sedabench run suites/quick.toml --out results/again" in text
    assert f"sedabench compare {tmp_path / 'first'} results/again/first" in text
    for command in (["sedabench", "run", "--resume", "x"], ["notebook.py", "-f", "x.json"]):
        text = said(command, name=command[-1])
        assert "git checkout c0ffee" in text
        assert "results/again" not in text


def test_an_unfinished_run_says_so(make_run: MakeRun) -> None:
    run = load_run(make_run(stop_after=5))
    assert f"5 of {len(run.manifest['plan'])} planned trials" in Parsed(page([run])).text


def test_the_page_of_a_full_run_stays_under_3_mb(tmp_path: Path) -> None:
    run = write_overload_run(tmp_path / "run", repeats=5)
    assert len(page([load_run(run)]).encode()) < 3e6


def test_a_run_without_its_records_has_a_page_without_their_figures(tmp_path: Path) -> None:
    path = write_overload_run(tmp_path / "run", loads=(0.5, 2.0), repeats=1)
    for record in (path / "trials").iterdir():
        record.unlink()
    assert Parsed(page([load_run(path)])).json


# -- what is refused ----------------------------------------------------------------------


def test_a_run_with_no_valid_trial_is_one_line_and_nothing_is_written(
    make_run: MakeRun, tmp_path: Path
) -> None:
    count = len(load_run(make_run("whole")).trials)
    bad = make_run("bad", invalid=[(n, "clocks <differ>") for n in range(count)])
    before = (bad / "trials.csv").read_bytes()
    out = tmp_path / "page.html"
    said = rf"no valid trial.*clocks <differ>.*trials\.csv; without it: .* {tmp_path / 'whole'}$"
    with pytest.raises(UserError, match=said):
        write([tmp_path / "whole", bad], out)
    assert not out.exists()
    assert (bad / "trials.csv").read_bytes() == before


def test_a_run_that_has_not_begun_is_one_line(make_run: MakeRun) -> None:
    with pytest.raises(UserError, match=r"no finished trial.*--resume"):
        write([make_run(stop_after=0)])


def test_an_older_report_is_replaced_and_anything_else_is_not(
    make_run: MakeRun, tmp_path: Path
) -> None:
    run = make_run()
    first = write([run])
    assert first == run / "report.html"
    first.write_bytes(first.read_bytes() + b"of yesterday")
    write([run])
    assert not first.read_bytes().endswith(b"of yesterday")
    mine = tmp_path / "thesis.html"
    mine.write_text("<!DOCTYPE html><p>mine")
    with pytest.raises(UserError, match="no report of ours"):
        write([run], mine)
    assert mine.read_text() == "<!DOCTYPE html><p>mine"


def test_a_place_where_no_file_can_be_is_named(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    with pytest.raises(UserError, match="is a folder"):
        write([run], tmp_path)
    with pytest.raises(UserError, match="is not a folder"):
        write([run], tmp_path / "nowhere" / "page.html")
    with pytest.raises(UserError, match="--out"):
        write([run], Path("/proc/self/page.html"))
    with pytest.raises(UserError, match="a file of its own"):
        write([run], Path("-"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no file that can be replaced"):
        write([run], tmp_path / "pipe")


def test_a_folder_of_something_else_is_not_called_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run folder"):
        write([tmp_path])


BROKEN: tuple[dict[str, Any], ...] = (
    {"parameters": {}}, {"parameters": {"servers": 7}}, {"parameters": {"servers": [{}]}},
    {"cores": 3},
)  # fmt: skip


@pytest.mark.parametrize("change", BROKEN)
def test_a_damaged_folder_is_named_as_such(make_run: MakeRun, change: dict[str, Any]) -> None:
    path = make_run()
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**manifest, **change}))
    with pytest.raises(DamagedRunError, match="is damaged"):
        write([path])


def test_the_command_prints_where_the_page_is(make_run: MakeRun, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    done = CliRunner().invoke(
        report, [str(make_run("a")), str(make_run("b")), "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert done.output.strip() == str(out)
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")


def test_one_run_named_twice_is_one_section(make_run: MakeRun) -> None:
    run = make_run()
    seen = Parsed(write([run, run / ".." / run.name]).read_text(encoding="utf-8"))
    assert "run2" not in seen.ids


def test_the_folder_of_a_suite_stands_for_its_runs(tmp_path: Path) -> None:
    suite = tmp_path / "suite"
    for name in ("first", "second"):
        write_overload_run(suite / name, loads=(1.0, 2.0), repeats=2)
    page = write([suite]).read_text()
    assert page.count("<h1") >= 1
    assert all(f"suite/{name}" in page for name in ("first", "second"))
    with pytest.raises(DamagedRunError, match=r"holds several runs; name one of them: .*first"):
        load_run(suite)
