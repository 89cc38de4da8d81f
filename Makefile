# Every target makes .venv when it is missing and is safe to repeat.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: install demo test test-fast test-slow lint docs clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[all,dev]"
	touch $@

demo: install
	$(BIN)/cfgen-dist demo --out demo

# Two processes of one thread each; more where there are more cores: make test PROCESSES=8
PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

test: install
	$(PYTEST) -n $(PROCESSES) -m "not slow"

# For working: nothing that trains, evaluates whole stores, starts Ray or a process that imports torch.
test-fast: install
	$(PYTEST) -n $(PROCESSES) -m "not slow and not heavy"

# One after the other: they start processes of their own, and kill them at chosen moments.
test-slow: install
	$(PYTEST) -m slow

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/mkdocs build --strict --quiet

clean:
	rm -rf .venv demo
