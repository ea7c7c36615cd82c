# The two commands of the README, and the few others a person needs.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup figures notebooks test test-all check bench clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## */\t/' | expand -t 12

# Built anew when a dependency or a pin changes; the project itself is linked,
# not copied, so that an edit needs no reinstall.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: $(PYTHON) is older than 3.11; try: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	    --constraint constraints.txt --editable '.[dev]'
	@touch $@

setup: $(READY)  ## make the virtual environment in .venv

figures: $(READY)  ## set up, run both experiments in quick form, say where the figures are
	$(BIN)/sedabench run figure1 --quick
	$(BIN)/sedabench run overload --quick

notebooks: $(READY)  ## execute the notebooks in place, in full: about a quarter of an hour
	$(BIN)/python notebooks/execute.py

test: $(READY)  ## set up, run the tests
	$(BIN)/python -m pytest --numprocesses 2

test-all: $(READY)  ## the same, and those that take their time
	$(BIN)/python -m pytest --numprocesses 2 -m ""

check: $(READY)  ## lint, types, and who imports whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## compare with reference tools, as ratios within one run
	$(BIN)/python -m benchmarks

clean:  ## remove what make made (not results/)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
