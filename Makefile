# fpd from a checkout. A bare machine needs Python 3.11 or newer with its venv module, git, make
# and gcc; everything else comes into .venv, once, until pyproject.toml changes.
#
#   make run     the whole house in one process, with simulated peers and devices
#   make test    every test but the benchmarks
#   make check   style, types, and the arrow of imports
#   make bench   the benchmarks
#   make clean   away with .venv and everything that can be made again
#
# PYTHON=python3.13 chooses an interpreter, ARGS="-k forecast -x" is handed to pytest.

MAKEFLAGS += --no-print-directory
SHELL := /bin/sh

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PIP := @$(BIN)/python -m pip --disable-pip-version-check install --quiet

NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c '$(NEW_ENOUGH)' 2>/dev/null && echo $$python && break; done)

# Debian and Ubuntu keep half of the venv module in a package of its own: fetched where we may.
HAS_VENV := import ensurepip, venv
VENV_PACKAGE = $(notdir $(PYTHON))-venv
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo 'sudo -n')
GET_VENV = command -v apt-get >/dev/null && $(AS_ROOT) apt-get -qq update && \
	$(AS_ROOT) apt-get -qq install -y --no-install-recommends $(VENV_PACKAGE)

.PHONY: run test check bench clean
.DELETE_ON_ERROR:

run: $(VENV)/.run
	$(BIN)/fpd demo

test: $(VENV)/.test
	$(BIN)/python -m pytest -n 3 --ignore=tests/bench $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.test
	$(BIN)/python -m pytest tests/bench $(ARGS)

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find fpd tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: $(VENV)/.made pyproject.toml fpd/__init__.py
	@echo 'installing fpd into $(VENV) ...'
	$(PIP) --editable '.[embedded,plan]'
	@touch $@

$(VENV)/.test: $(VENV)/.made pyproject.toml fpd/__init__.py
	@echo 'installing fpd and what its tests need into $(VENV) ...'
	$(PIP) --editable '.[embedded,test]'
	@touch $@ $(VENV)/.run

$(VENV)/.check: $(VENV)/.made pyproject.toml fpd/__init__.py
	@echo 'installing what the checks need into $(VENV) ...'
	$(PIP) --editable '.[embedded,test,dev]'
	@touch $@ $(VENV)/.test $(VENV)/.run

$(VENV)/.made:
	@test -n "$(PYTHON)" || { echo "fpd needs Python 3.11 or newer: apt install python3, or make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c '$(NEW_ENOUGH)' || { echo "$(PYTHON) is older than Python 3.11" >&2; exit 1; }
	@$(PYTHON) -c '$(HAS_VENV)' 2>/dev/null || { $(GET_VENV); } >&2 || true
	@$(PYTHON) -c '$(HAS_VENV)' 2>/dev/null || { echo "$(PYTHON) has no venv module: apt install $(VENV_PACKAGE)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
