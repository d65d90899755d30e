# Pulzar on a machine that has only Python 3.11+ and make:
#
#     make demo     see it work (its own environment, a free port, ends by itself)
#     make test     lint, types, every test
#
# Everything lives in .venv/; `make clean` removes what make made, never your data.

PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo $$python && break; done)
BIN := .venv/bin
SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d ' ')

.DEFAULT_GOAL := help
.PHONY: help install demo up test check lint type unit model fuzz fmt bench clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

# Two stamps, so that a demo does not wait for the tools that only tests need.
.venv/ready: pyproject.toml
	@sh .ci/environment "$(PYTHON)" .
	@touch $@
.venv/ready-dev: .venv/ready
	@sh .ci/environment "$(PYTHON)" '.[dev]'
	@touch $@

install: .venv/ready-dev  ## make the environment, with the tools for tests

demo: .venv/ready  ## start, store and read real files, kill -9, recover; ends by itself
	$(BIN)/pulzar demo

up: .venv/ready  ## serve at http://127.0.0.1:9000 until Ctrl-C
	$(BIN)/pulzar up

test: lint type  ## lint, types, all tests
	$(BIN)/python -m pytest -q

check: test demo  ## what CI runs

lint: .venv/ready-dev  ## ruff: rules and formatting
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

type: .venv/ready-dev  ## mypy --strict
	$(BIN)/mypy

unit: .venv/ready-dev  ## the tests that take less than a second each
	$(BIN)/python -m pytest -q -m "not slow"

model: .venv/ready-dev  ## the model tests, searching for much longer
	$(BIN)/python -m pytest -q tests/model --hypothesis-profile=long --timeout=3600

fuzz: .venv/ready-dev  ## as model, repeatable: make fuzz SEED=1234
	$(BIN)/python -m pytest -q tests --hypothesis-profile=long --hypothesis-seed=$(SEED) \
		--timeout=3600 -m "not slow"

fmt: .venv/ready-dev  ## format, and fix what ruff can fix
	$(BIN)/ruff format --quiet
	$(BIN)/ruff check --fix

bench: .venv/ready-dev  ## measure; results go to bench/RESULTS.md
	$(BIN)/python -m bench

clean:  ## remove the environment and caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis bench/build dist
	find pulzar tests bench -name __pycache__ -type d -prune -exec rm -rf {} +
