# The commands that a newcomer and CI type. Nothing but Python 3.11+ and make is needed before them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# An installed environment, remade when the dependencies change.
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo evidence gpu-check check test test-system

help:  ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) --version), but 3.11 or newer is needed; give one: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

install: $(READY)  ## Create .venv and install the project

demo: $(READY)  ## Run the whole pipeline on the digits that ship with scikit-learn
	@$(BIN)/python pipeline/run.py --config configs/digits.yaml $(ARGS)

evidence: $(READY)  ## Repeat the study of the README on CIFAR-10 (hours; goes on where it stopped)
	@$(BIN)/python tests/benchmarks/evidence.py $(ARGS)

gpu-check: $(READY)  ## What is promised for a GPU, looked at on one (about 8 minutes; ARGS=--quick: 90 s)
	@$(BIN)/python tests/benchmarks/gpu_check.py $(ARGS)

check: $(READY)  ## Lint, types and import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check  ## All checks and the tests
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

test-system: $(READY)  ## The slower tests: clusters, servers, browsers, kills
	$(BIN)/pytest -m system $(ARGS)
