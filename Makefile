# An interpreter in which this checkout is installed with its [test,dev] extras is used as it is (CI does that);
# otherwise everything happens in .venv, made on first use. `make demo` always runs in .venv.
TORCH ?= torch
PIP_FLAGS ?= -c constraints.txt
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

VENV := .venv
INSTALLED := $(VENV)/.installed

# -I: what is in the current folder does not count as installed.
PROBE := import os, importlib.util as u; package = u.find_spec("disback_diffusers"); \
	assert package.origin.startswith(os.getcwd()) and u.find_spec("pytest") and u.find_spec("xdist") and u.find_spec("ruff")
ifeq ($(shell python -I -c '$(PROBE)' 2>/dev/null && echo ready),ready)
PYTHON := python
ENVIRONMENT :=
else
PYTHON := $(VENV)/bin/python
ENVIRONMENT := $(INSTALLED)
endif

# Waiting OpenMP threads sleep after a moment. Where they spin while another process wants a core, a step takes ten
# times as long; where they sleep at once (PASSIVE alone), a step on an idle machine takes nearly twice as long.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 1000

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast style quality

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /make \1	/'
	@echo
	@echo "Variables: PIP_FLAGS='$(PIP_FLAGS)' (PIP_FLAGS= takes the newest releases), TORCH='$(TORCH)', PYTEST_ARGS='$(PYTEST_ARGS)'"
	@echo "Without a GPU, a CPU build of torch, chosen by PIP_FLAGS or installed in .venv beforehand, spares gigabytes."

demo: $(INSTALLED)  ## distil the embedded teacher into outputs/demo and report on it; again: goes on, or only reports
	$(VENV)/bin/python train_scripts/train_disback_sd.py --config train_scripts/presets/demo.yaml \
		--output_dir outputs/demo --resume_from_checkpoint latest
	$(VENV)/bin/python benchmarks/embedded_teacher.py outputs/demo

test: $(ENVIRONMENT)  ## run the tests
	$(PYTHON) -m pytest $(PYTEST_ARGS)

test-fast: $(ENVIRONMENT)  ## run the quick tests: no processes, 90 seconds on 2 cores
	$(PYTHON) -m pytest $(PYTEST_ARGS) -m "not process and not slow"

style: $(ENVIRONMENT)  ## format the code and correct what can be corrected
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

quality: $(ENVIRONMENT)  ## check format and style, change nothing
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# torch first and alone: TORCH chooses its build, the rest then finds it installed.
$(INSTALLED): setup.py pyproject.toml constraints.txt
	test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) "$(TORCH)"
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) -e '.[test,dev]'
	touch $@
