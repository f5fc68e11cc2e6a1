# CoucheStor: every command a person or CI needs. `make help` lists them.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PROTOS := $(wildcard protos/couchestor/*/v1/*.proto)
TOOL    = $(shell $(PYTHON) tools/build.py --print $(1))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format proto tools lock bench chaos mutants crash-points clean

help: ## list the commands
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv from the lock
$(STAMP): requirements-dev.lock pyproject.toml
	@echo "setting up $(VENV) (once; about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "CoucheStor needs Python 3.11 or newer; set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup ## move volumes on a cluster in a box (BACKEND=rest, CLUSTER=real, KEEP=1)
	@$(BIN)/python -m sandbox.demo $(if $(BACKEND),--backend $(BACKEND)) $(if $(CLUSTER),--cluster $(CLUSTER)) $(if $(KEEP),--keep)

test: setup ## run every test this machine can run (REQUIRE_REAL=1: skip none)
	@REQUIRE_REAL=$(REQUIRE_REAL) $(BIN)/pytest $(ARGS)

lint: setup ## ruff, mypy, layers, protos, chart, stale stubs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(PYTHON) tools/build.py --only buf helm
	@cd protos && $(call TOOL,buf) lint
	@$(call TOOL,helm) lint --strict helm/couchestor
	@$(BIN)/python tools/proto.py --check

format: setup ## format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

proto: setup ## make the stubs from protos/
	@$(BIN)/python tools/proto.py

tools: ## build the real components (kube-apiserver, etcd, ...); cached
	@$(PYTHON) tools/build.py

lock: setup ## pin the dependencies anew
	@$(BIN)/python tools/lock.py

bench: setup ## measure
	@$(BIN)/python -m benchmarks

chaos: setup ## try to break migrations on simulated clusters (RUNS=2000, SEED=... repeats)
	@$(BIN)/python -m tests.simulation $(if $(RUNS),--runs $(RUNS)) $(if $(SEED),--seed $(SEED))

mutants: setup ## take safety measures out, one at a time, and see each found out
	@$(BIN)/python -m tests.simulation.mutants

crash-points: setup ## crash before and after every write of every course of a move
	@$(BIN)/python -m tests.restarts.crash_points $(if $(BACKEND),--backend $(BACKEND))

clean: ## remove what was made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache dist build
