# Works with GNU make 3.81 (macOS) and newer, with no virtual environment active.
#   T=     what to test: paths and pytest selections, e.g. T="tests/unit -k sse"
#   ARGS=  passed on, e.g. make run-worker ARGS="--config my.yaml"
#   N=     test processes (default 2; 0: in this process)

SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
N = 2
T = tests
ARGS =

RUNTIME := @$(PYTHON) deploy/local/venv.py
DEV := @$(PYTHON) deploy/local/venv.py --dev
PYTEST := $(BIN)/pytest -n $(N) --dist loadgroup --durations=20

.DEFAULT_GOAL := help
.PHONY: help install run-worker run-admin run migrate db-up db-stop db-reset \
	test test-unit test-contract test-integration test-faults bench \
	check lint format typecheck contracts lock lock-check routes update-prices clean

## Start

help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^## / { printf "\n%s\n", substr($$0, 4) } \
		/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

install: ## Make .venv with everything, tools for tests included
	$(DEV)

run-worker: ## Serve LLM traffic on port 4000 (HOST, PORT)
	$(RUNTIME)
	@$(BIN)/meridian-worker $(ARGS)

run-admin: ## Serve the management API on port 4001 (HOST, PORT)
	$(RUNTIME)
	@$(BIN)/meridian-admin $(ARGS)

run: ## Both
	$(RUNTIME)
	@$(BIN)/python -P deploy/local/run_both.py $(ARGS)

## Database (DATABASE_URL, else the local PostgreSQL)

migrate: ## Apply the missing migrations (ARGS="--dry-run")
	$(RUNTIME)
	@$(BIN)/meridian migrate $(ARGS)

db-up: ## Start the local PostgreSQL and migrate it
	$(RUNTIME)
	@$(BIN)/meridian db up

db-stop: ## Stop the local PostgreSQL
	$(RUNTIME)
	@$(BIN)/meridian db stop

db-reset: ## Stop it and delete all its data
	$(RUNTIME)
	@$(BIN)/meridian db reset --yes

## Test

test: ## Every test (T, ARGS, N)
	$(DEV)
	@$(PYTEST) $(T) $(ARGS)

test-unit: ## Without a database
	$(DEV)
	@$(PYTEST) tests/unit $(ARGS)

test-contract: ## What is promised to clients and to readers of the code
	$(DEV)
	@$(PYTEST) tests/contract $(ARGS)

test-integration: ## With a real PostgreSQL (MERIDIAN_TEST_PG=wheel: the packaged one)
	$(DEV)
	@$(PYTEST) tests/integration $(ARGS)

test-faults: ## With servers that stop and processes that are killed
	$(DEV)
	@$(PYTEST) tests/faults $(ARGS)

bench: ## Measure a worker against a mock upstream
	$(DEV)
	@$(BIN)/python bench/run.py $(ARGS)

## Check

check: lint typecheck contracts lock-check ## All of the following that changes nothing

lint: ## Style, format, spelling
	$(DEV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/codespell

format: ## Rewrite into the format
	$(DEV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: ## mypy, strict
	$(DEV)
	@$(BIN)/mypy

contracts: ## Which package may import which
	$(DEV)
	@$(BIN)/lint-imports

lock: ## Write both lock files from setup.cfg (ARGS=--upgrade)
	$(DEV)
	@$(BIN)/python deploy/local/lock.py $(ARGS)

lock-check: ## Whether the lock files are what setup.cfg asks for
	$(DEV)
	@$(BIN)/python deploy/local/lock.py --check

routes: ## Write what docs and tests say of the management routes (ARGS=--check)
	$(DEV)
	@$(BIN)/python -P deploy/local/route_pages.py $(ARGS)

update-prices: ## Convert the newest public price facts into our table
	$(DEV)
	@$(BIN)/python deploy/local/update_prices.py $(ARGS)

clean: ## Delete caches and build products (not .venv, not data)
	@rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache bench/out
	@find shared services tests bench deploy -name __pycache__ -type d -prune -exec rm -rf {} +
