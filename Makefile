# What people and CI call. Every target makes the virtual environment and the web page ready first, and does nothing
# when they are. `make demo` is the place to start.
SHELL := /bin/bash
VENV := $(CURDIR)/.venv
BIN := $(VENV)/bin
export PATH := $(BIN):$(VENV)/node:$(PATH)
# Two OpenMP threads that spin beside other load make every small operation take 10 ms.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help setup setup-python demo run test test-python test-web test-gpu test-compose faults check bench eval proto web compose-env \
        compose-up compose-down constraints clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*##/\1\t/p' Makefile | column -t -s "$$(printf '\t')"

setup:  ## the virtual environment and the web page; under 2 s when nothing changed
	@scripts/setup.sh all

setup-python:
	@scripts/setup.sh python

demo: setup  ## reads the sample book, asks, kills the engine, asks again. BOOK=path REPO=path DEMO_EXIT=1
	@exec $(BIN)/python -m services.local demo $(if $(BOOK),--book "$(BOOK)") $(if $(REPO),--repo "$(REPO)") $(if $(DEMO_EXIT),--exit)

run: setup  ## everything on this machine at http://127.0.0.1:8000; Ctrl-C stops it
	@exec $(BIN)/python -m services.local run

check: setup  ## ruff, mypy, who may import whom, the web page's lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(if $(wildcard web/package.json),cd web && npm run --silent lint && npm run --silent typecheck)

test: test-web test-python  ## all tests but the containers'

test-web: setup
	$(if $(wildcard web/package.json),cd web && npm run --silent test)

test-python: setup
	@scripts/system_packages.sh
	@$(BIN)/python kernels/cpu/build.py
	$(BIN)/pytest -m "not compose" $(PYTEST_ARGS)

test-gpu: $(if $(GPU_PYTHON),,setup-python)  ## the GPU's tests, on a machine with one. GPU_PYTHON=python3: an environment that is there
	@scripts/test_gpu.sh $(or $(GPU_PYTHON),$(BIN)/python) $(PYTEST_ARGS)

test-compose: setup  ## docker compose for real: up, read, ask, kill the engine, ask again
	@scripts/test_compose.sh

faults: setup  ## kills, flips, full disks, bad lines; about a minute. KILLS=1000 FLIPS=10000 SEED= ONLY= OUT=
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --kills $(or $(KILLS),20) --flips $(or $(FLIPS),200) \
	  --seed $(or $(SEED),1) $(if $(ONLY),--only $(ONLY)) $(if $(OUT),--out $(OUT))

bench: setup  ## the measurements of bench/
	@$(BIN)/python -m bench

eval: setup-python  ## the shipped model measured through the product, about 40 minutes. ARGS="--quick" or "squad --n 50"
	@$(BIN)/python -m lab.eval $(ARGS)

proto: setup-python  ## services/inference/pb from proto/inference.proto
	@scripts/proto.sh

web:  ## the web page
	@scripts/setup.sh web

compose-env:  ## var/compose.env with fresh passwords, for docker compose --env-file
	@scripts/compose_env.sh

compose-up: compose-env  ## docker compose up. PROFILE=cpu|gpu
	docker compose --env-file var/compose.env --profile $(or $(PROFILE),cpu) up --build --wait

compose-down:
	docker compose --env-file var/compose.env --profile cpu --profile gpu down

constraints: setup-python  ## constraints.txt from the virtual environment
	@scripts/constraints.sh

clean:  ## what was built; never var/, which holds your library
	rm -rf $(VENV) web/node_modules web/dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
