# make demo     adapt a network to poor pictures, compile for this machine and ARM, classify (minutes)
# make test     all tests            make quick    the tests of one minute
# make lint     ruff                 make format   ruff's formatter        make types    mypy
# make docs     the documentation as a site in build/docs; its option tables are made anew
# make venv     only set up
# Each sets up its own .venv first. PYTHON=python3.12 names the Python to use, ARGS="-k runtime" goes to pytest.

SHELL := /bin/sh
# the machine's own python3 where it will do, else the first of the others that works
NEW_ENOUGH := -c 'import sys; sys.exit(sys.version_info < (3, 10))'
ifeq ($(origin PYTHON),undefined)
PYTHON := $(firstword $(shell for p in python3 python3.11 python3.12 python3.13 python3.10; do \
  $$p $(NEW_ENOUGH) >/dev/null 2>&1 && echo $$p; done; true) python3)
endif
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check
STAMP := $(VENV)/.installed
JOBS ?= auto

.PHONY: demo test quick lint format types docs venv

demo: $(STAMP)
	$(PY) -m benchmarks.demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

quick: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

format: $(STAMP)
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

types: $(STAMP)
	$(PY) -m tests.house.type_errors

docs: $(STAMP)
	$(PY) docs/options.py
	$(PY) -m zensical build --clean --strict

venv: $(STAMP)

# torch alone first: any other order lets pip prefer a build with gigabytes of CUDA where a small one lies at hand.
# bitgrade itself last, as a link to this folder, so that `from runtime import Engine` works from any other one.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) $(NEW_ENOUGH) || \
	  { echo "bitgrade needs Python 3.10 or later, $(PYTHON) is $$($(PYTHON) -V 2>&1 || echo not there); name one: make PYTHON=..."; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "expected $(PYTHON) to make a virtual environment; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(PIP) $$(grep '^torch==' requirements.lock)
	@if $(PY) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "installing the exact versions of requirements.lock"; $(PIP) -r requirements.lock; \
	else \
	  echo "requirements.lock needs Python 3.11 or later: installing within the ranges of pyproject.toml instead"; \
	  $(PIP) -e '.[train,compile,dev]'; \
	fi
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $(STAMP)
