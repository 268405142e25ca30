# The two commands: `make demo` and `make test`. Both set up `.venv` by themselves.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash

.PHONY: demo test test-cluster lint types unit claims benchmarks docs constraints clean

$(VENV)/.installed: pyproject.toml assay/constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed: $(PYTHON) is not on the path (make PYTHON=/path/to/python3.11 …)"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt "setuptools>=77" wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	touch $@

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/assay run --params params.yaml; code=$$?; \
	if [ $$code -eq 3 ]; then echo "A gate failed: that is a result of the run, not an error. The report says which and why."; code=0; fi; \
	exit $$code

test: lint types unit

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

unit: $(VENV)/.installed
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not server and not cluster" -q
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m "server and not slow and not cluster" -q

# Several machines in miniature: work pools, an S3 server, Dask, PostgreSQL (Debian's, where it is installed).
test-cluster: $(VENV)/.cluster
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m cluster -q

$(VENV)/.cluster: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable ".[dev,cluster]"
	touch $@

claims: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 -m claim -q

benchmarks: $(VENV)/.installed
	$(BIN)/python benchmarks/run.py

docs: $(VENV)/.installed
	$(BIN)/python -m assay.tasks.docs docs/methods docs/choosing-a-slot.md

constraints: $(VENV)/.cluster
	(head -1 constraints.txt; $(BIN)/pip freeze --exclude-editable | sed 's/+cpu//' | grep -v '^assay') > constraints.new && mv constraints.new assay/constraints.txt

clean:
	rm -rf $(VENV) .assay out reports
