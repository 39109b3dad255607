# make check is the gate: what .ci/run checks in fresh environments, in this one.
PYTHON ?= python
# How many processes run the tests; "auto" is one for each core.
JOBS ?= auto
# What shows quickly whether an environment works at all: imports, numbers against the
# goldens, one run that is killed and goes on, weights in other formats, an export.
SMOKE = tests/system/imports_test.py tests/system/package_test.py \
	tests/system/older_run_test.py tests/system/install_test.py \
	tests/models/mixer_test.py tests/models/resnet_test.py \
	tests/checkpoint/formats tests/checkpoint/ports tests/training/step_test.py \
	tests/training/checkpoints_test.py tests/data/pipeline_test.py \
	tests/data/datasets tests/convert_test.py

.PHONY: check lint test slow smoke

check: lint test slow

lint:
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

test:
	$(PYTHON) -m pytest -n $(JOBS)

slow:
	$(PYTHON) -m pytest -n $(JOBS) -m slow

smoke:
	$(PYTHON) -m pytest -n $(JOBS) $(SMOKE)
