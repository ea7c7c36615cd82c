"""docs/ says what there is: every column of trials.csv, and every link and file that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sedabench.results.folder import Column
from sedabench.swarm import folder as swarm_folder

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.glob("*.md"), ROOT / "README.md", ROOT / "examples" / "README.md"])


@pytest.mark.parametrize("column", swarm_folder.COLUMNS, ids=lambda column: column.name)
def test_every_column_of_a_swarm_is_documented(column: Column) -> None:
    """Those of the other experiments: tests/sedabench/test_results.py."""
    text = (DOCS / "measurement.md").read_text()
    assert f"| `{column.name}` | {column.kind} | {column.unit} | {column.meaning} |" in text


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)", found.read_text(), re.MULTILINE)
            known = {re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
            assert anchor in known, target


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    assert [page.name for page in DOCS.glob("*.md") if f"]({page.name})" not in index] == [
        "README.md"
    ]
