"""The notebooks run from their first cell to the last, and what is committed is what ran.

They are executed in quick form: short windows, few levels, so that everything is called and
nothing is learned.  The committed ones are only read.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from notebooks.execute import sources_hash

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
NAMES = ["01_figure1", "02_overload", "03_inside_a_stage", "04_your_own_server"]
DEADLINE_S = 240

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> list[Any]:
    return [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]


def figures(notebook: nbformat.NotebookNode) -> int:
    return sum("image/png" in output.get("data", {}) for output in outputs(notebook))


def texts(notebook: nbformat.NotebookNode) -> str:
    """Everything that the outputs say in words."""
    said = []
    for output in outputs(notebook):
        data = {k: v for k, v in output.get("data", {}).items() if not k.startswith("image/")}
        said.append(json.dumps([output.get("text"), data]))
    return "\n".join(said)


def test_they_are_the_four_that_the_pages_name() -> None:
    assert [path.stem for path in NOTEBOOKS] == NAMES


@pytest.mark.timeout(DEADLINE_S + 20)
@each
def test_it_runs_in_quick_form(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, FOLDER / "execute.py", "--quick", "--out", tmp_path, path.stem],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=DEADLINE_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    made = read(tmp_path / path.name)
    assert figures(made)
    assert not [o for o in outputs(made) if o.output_type == "error"]


@each
def test_its_outputs_are_those_of_its_sources(path: Path) -> None:
    notebook = read(path)
    assert notebook.metadata["sedabench"]["executed_sources_sha256"] == sources_hash(notebook), (
        "its cells were changed after they were executed: make notebooks"
    )
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


@each
def test_its_figures_are_kept_and_no_cell_failed_or_complained(path: Path) -> None:
    notebook = read(path)
    assert figures(notebook)
    assert not [o for o in outputs(notebook) if o.output_type == "error"]
    assert not [o for o in outputs(notebook) if o.get("name") == "stderr"]
    assert path.stat().st_size < 1_000_000


@each
def test_its_outputs_name_no_place_of_the_machine_that_made_them(path: Path) -> None:
    found = re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|var|opt|Users|etc)/\S*",
                       texts(read(path)))  # fmt: skip
    assert not found


@pytest.mark.parametrize("name", NAMES[:3])
def test_it_shows_the_reference_runs_that_are_committed(name: str) -> None:
    """A reference run that was measured anew needs its figures and numbers drawn anew."""
    said = texts(read(FOLDER / f"{name}.ipynb"))
    shown = set(re.findall(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", said))
    reference = ROOT / "results" / "reference"
    kept = {json.loads(p.read_text())["started_utc"] for p in reference.rglob("manifest.json")}
    assert shown, "it does not say when its reference run was measured"
    assert shown <= kept, "a reference run was measured anew: make notebooks"


@each
def test_it_uses_the_public_interface_only(path: Path) -> None:
    """`import sedabench`, and what the pages of the library and of the examples import."""
    for cell in read(path).cells:
        if cell.cell_type != "code" or cell.source.startswith("%%writefile"):
            continue
        lines = (line for line in cell.source.splitlines() if not line.startswith("%"))
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.ImportFrom):
                assert not (node.module or "").startswith(("sedabench", "loadgen")), node.module
            elif isinstance(node, ast.Import):
                assert not [a.name for a in node.names if a.name.startswith("sedabench.")]


@each
def test_its_links_lead_somewhere(path: Path) -> None:
    words = "\n".join(c.source for c in read(path).cells if c.cell_type == "markdown")
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", words):
        assert (FOLDER / link).exists(), link
