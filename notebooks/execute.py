"""Executes notebooks and keeps their outputs: `make notebooks`.

    python notebooks/execute.py                        # all, in place, in full
    python notebooks/execute.py 03_inside_a_stage      # one
    python notebooks/execute.py --quick --out /tmp/try # as the tests do

Each runs in a kernel of its own, in this folder, with a configuration that is
nobody's.  What is written carries a hash of the sources that were executed, so
that a test can tell outputs of other sources.  A notebook that fails leaves
its file as it was.

With `--quick` (the variable `SEDABENCH_NOTEBOOK_QUICK`, which the notebooks
read) windows are short and levels few: everything runs, nothing can be learned
from the numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from loadgen.output import command
from sedabench import scratch
from sedabench.machine.process import before_exec

FOLDER = Path(__file__).resolve().parent
TIMEOUT_S = 900
"""For one cell; the longest in full takes about four minutes on a quiet machine."""


def sources_hash(notebook: nbformat.NotebookNode) -> str:
    """SHA-256 over the sources of all cells, in order."""
    texts = [f"{cell.cell_type}\0{cell.source}" for cell in notebook.cells]
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook with new outputs.

    Raises:
        CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=TIMEOUT_S, kernel_name="python3", record_timing=False,
        resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--log-level=ERROR"],  # or it warns of its port, which is on loopback
    )  # fmt: skip
    client.execute(preexec_fn=before_exec((), os.getpid()))  # the kernel dies with us
    notebook.metadata["sedabench"] = {"executed_sources_sha256": sources_hash(notebook)}
    return notebook


def main() -> int:
    parser = argparse.ArgumentParser(description="Execute notebooks and keep their outputs.")
    parser.add_argument("names", nargs="*", help="such as 01_figure1; without: all")
    parser.add_argument("--quick", action="store_true", help="short windows, for tests")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where the results are written")
    given = parser.parse_args()
    if given.quick and given.out.resolve() == FOLDER:
        parser.error("--quick would put outputs that say nothing into this folder; give --out")
    os.environ.pop("SEDABENCH_NOTEBOOK_QUICK", None)
    if given.quick:
        os.environ["SEDABENCH_NOTEBOOK_QUICK"] = "1"
    paths = [FOLDER / f"{name.removesuffix('.ipynb')}.ipynb" for name in given.names]
    for path in paths:
        if not path.is_file():
            parser.error(f"there is no notebook {path.name} in {FOLDER.name}/")
    with scratch.folder() as folder:
        home = str(folder)
        # Neither a person's start-up files nor their settings take part, and what a killed
        # kernel leaves of its temporary files goes with the folder.
        os.environ.update(
            IPYTHONDIR=home, JUPYTER_CONFIG_DIR=home, JUPYTER_RUNTIME_DIR=home, TMPDIR=home
        )
        for path in paths or sorted(FOLDER.glob("*.ipynb")):
            print(path.name, flush=True)
            try:
                notebook = execute(path)
            except CellExecutionError as error:
                print(f"error: {path.name} failed\n{error}", file=sys.stderr)
                return 1
            given.out.mkdir(parents=True, exist_ok=True)
            nbformat.write(notebook, given.out / path.name)
    return 0


if __name__ == "__main__":
    command(main)
