# Every target works alone from a fresh clone, as root or not, without asking.
SHELL := /bin/bash
PYTHON ?= python3.11
PY := .venv/bin/python

.PHONY: setup demo test check reference artifacts test-long bench lock clean

PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-deps

.venv/.locked: requirements.lock
	$$(command -v $(PYTHON) || command -v python3) -m venv --clear .venv
	$(PIP) --require-hashes -r requirements.lock
	touch $@

.venv/.done: .venv/.locked pyproject.toml
	$(PIP) --no-build-isolation --editable .
	touch $@

setup: .venv/.done

demo: setup
	.venv/bin/tierkeeper demo

test: setup
	$(PY) -m pytest -m "not long" --numprocesses 2 --dist worksteal

check: setup
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	MYPYPATH=deploy/lambda:src .venv/bin/mypy deploy/lambda
	.venv/bin/lint-imports --no-cache
	$(PY) -m tierkeeper.cli.reference --check docs/reference

reference: setup
	$(PY) -m tierkeeper.cli.reference docs/reference

# What AWS Lambda runs; a second call finds them as they are.
artifacts: setup
	$(PY) deploy/lambda/artifacts.py

test-long: setup
	$(PY) -m pytest -m long --numprocesses 2 --dist worksteal --timeout 7200

bench: setup
	for name in move archive-write archive-size restore one-day; do $(PY) -m bench $$name --json || exit 1; done

# A lock names versions and hashes, never a registry. The container's are parts of the whole one: what runs there, and what builds it.
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links
IN_CONTAINER := deploy/container

lock:
	python3 -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/uv pip compile $(LOCK) --extra demo --extra homeserver --extra balance --group dev pyproject.toml --output-file requirements.lock
	.venv-lock/bin/uv pip compile $(LOCK) --constraints requirements.lock --extra homeserver --extra balance pyproject.toml --output-file $(IN_CONTAINER)/requirements.lock
	echo hatchling | .venv-lock/bin/uv pip compile $(LOCK) --constraints requirements.lock - --output-file $(IN_CONTAINER)/build.lock
	rm -r .venv-lock

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache build dist
