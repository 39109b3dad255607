# make check is the gate: what .ci/run checks in fresh environments, in this one.
PYTHON ?= python
# How many processes run the tests; "auto" is one for each core.
JOBS ?= auto

.PHONY: check lint test slow

check: lint test slow

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

test:
	$(PYTHON) -m pytest -n $(JOBS)

slow:
	$(PYTHON) -m pytest -n $(JOBS) -m slow
