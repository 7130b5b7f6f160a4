# Everything on a fresh machine: `make demo`, `make test`, `make docs`, `make fuzz`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
SECONDS_EACH ?= 30
# --no-compile: bytecode is made when a module is first imported, not for every file of every package
PIP_INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test docs check fuzz setup setup-dev clean

demo: setup
	$(BIN)/equifuse demo --out $(OUT)

test: check
	$(BIN)/python -m pytest -n auto

docs: setup-dev
	$(BIN)/python -m sphinx -W -q -b html -d docs/_build/doctrees docs docs/_build/html
	@echo "open docs/_build/html/index.html"

fuzz: setup-dev
	$(PIP_INSTALL) --editable ".[fuzz]"
	$(BIN)/python -m tests.fuzz.campaign --seconds $(SECONDS_EACH)

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

setup: $(VENV)/.installed

setup-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV)
