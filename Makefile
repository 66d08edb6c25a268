# make demo    install into .venv and run the whole pipeline on generated DICOM; prints the comparison
# make test    install into .venv and run the tests
# make coverage    the same, with the share of lines that they ran
# make check   lint, format, types
# make docs    build the documentation into site/, strictly; needs no internet once its packages are installed
# make test-slow   proofs that take minutes; real data in ../shared where it is there
# TORCH         what is installed of PyTorch: the newest release that the tests pass with; TORCH=torch takes the newest
PYTHON ?= python3
TORCH ?= torch==2.13.*
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test coverage test-slow check docs

demo: $(VENV)/.runtime
	$(BIN)/medmim demo

test: $(VENV)/.dev
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -q -n auto --dist worksteal --durations=5

coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow" -q -n auto --cov --cov-report=term:skip-covered

test-slow: $(VENV)/.dev
	$(BIN)/pytest -m slow

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/.runtime: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medmim needs Python 3.11 or newer: make PYTHON=python3.12 demo")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[itk,ui]'
	touch $@

$(VENV)/.dev: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(VENV)/.docs: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@
