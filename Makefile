# `make demo` and `make test` are enough to begin. Each target makes .venv and installs when needed, but `ci`, which uses
# an environment of its own.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
TWO = --numprocesses 2 --dist loadfile
READY = $(VENV)/.installed

.PHONY: demo test test-all check docs ci install clean

demo: $(READY)
	$(BIN)/lorat demo

test: $(READY)
	$(BIN)/python -m pytest $(TWO) -m "not slow"

test-all: $(READY)
	$(BIN)/python -m pytest $(TWO)

check: $(READY)
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: $(READY)
	$(BIN)/mkdocs build --strict

ci:
	.ci/run

install: $(READY)

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all,test]"
	touch $@

clean:
	rm -rf $(VENV) lorat_demo lorat_track site
