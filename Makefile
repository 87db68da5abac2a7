# make demo   a real BERT becomes 1-bit, with a report
# make test   linters, types and tests, as CI runs them

PYTHON ?= python3
BIN := .venv/bin
RUN := demo

.PHONY: demo test clean

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo,dev]'
	touch $@

demo: .venv/installed
	$(BIN)/python -m bipft_compress.demo --out $(RUN)

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n auto --dist worksteal

clean:
	rm -rf .venv $(RUN) .pytest_cache .mypy_cache .ruff_cache
