# Every target sets up what it needs. ARGS reaches the program behind a target: make test ARGS="-k ledger -x"
.DEFAULT_GOAL := help
.PHONY: help setup setup-base setup-dev setup-kafka native wheels demo test bench soak lint types imports check format lock clean

BIN := .venv/bin
TYPED := $(wildcard src tests bench examples)
WORKERS ?= 2
SOAK_RUNS ?= 2000

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv, and as root on Debian install the servers that tests start
	@tools/setup.sh test

setup-base:
	@tools/setup.sh base

setup-dev:
	@tools/setup.sh dev

setup-kafka:
	@tools/setup.sh kafka

native: setup-dev ## build the compiled JSON engine into .venv; needs cargo
	@tools/native.sh develop

wheels: setup-dev ## build wheels of Milkrun and of its compiled engine into dist/
	$(BIN)/uv build --wheel --quiet --no-build-isolation --out-dir dist .
	@tools/native.sh wheel

demo: $(if $(KAFKA),setup-kafka,setup-base) ## see events go from HTTP and RabbitMQ to DuckDB and Parquet, exactly once (KAFKA=1: over Kafka)
	$(if $(KAFKA),$(BIN)/python -m milkrun.testing.kafka_serve --) $(BIN)/milkrun demo $(ARGS)

test: setup ## run the tests (WORKERS=2 at a time)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup $(ARGS)

bench: setup ## measure throughput and latency
	$(BIN)/python -m bench $(ARGS)

soak: setup ## kill and restart it again and again, counting every event (SOAK_RUNS=2000)
	MILKRUN_SOAK_RUNS=$(SOAK_RUNS) $(BIN)/python -m pytest -m soak --timeout 0 $(ARGS)
	@tools/native.sh asan

check: lint types imports ## all that is checked without running it

lint: setup-dev ## formatting and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup-dev ## mypy, strict
	$(BIN)/mypy $(TYPED)

imports: setup-dev ## the import rules between packages
	$(BIN)/lint-imports --cache-dir .cache/imports

format: setup-dev ## format, and fix what lint can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup-dev ## pin dependencies anew after a change in pyproject.toml (ARGS=--upgrade for newer ones)
	tools/lock.sh $(ARGS)

clean: ## remove .venv, caches and builds
	rm -rf .venv .cache .hypothesis build dist native/target
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +
