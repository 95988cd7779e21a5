# Everything is done in .venv, made on first use from constraints.txt; a second run repeats no set-up.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
STUBS := clients/python/thermostat/v1
# The oldest grpcio-tools with Python 3.11, so that every later protobuf and grpcio accepts the stubs.
PROTO_TOOLS := grpcio-tools==1.49.1 protobuf==4.21.12 grpcio==1.49.1 setuptools==65.5.1

# What `make clients` builds, and the clients that it then runs.
CLIENT_FOLDERS ?= typescript go cpp java ruby previous
CLIENTS ?= python python-async node browser browser-grpc-web go cpp java ruby python-previous node-previous
BUILDS := $(CLIENT_FOLDERS:%=build-%)

MODEL ?= embedded
PORT ?= 50051
DEVICE ?= auto
DTYPE ?= auto
FUZZ ?= 100000
MINUTES ?= 5

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test fuzz soak bench bench-peers bench-gpu clients clients-toolchains $(BUILDS) lint format proto clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with everything in it

$(READY): constraints.txt pyproject.toml clients/python/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; say which with make PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "Python's venv is missing; on Debian: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e clients/python -e '.[dev]'
	@touch $@

demo: $(READY) ## one prompt under three policies, on a server of its own
	@$(BIN)/python -m server.demo

serve: $(READY) ## serve: MODEL=embedded|folder|hub name, PORT=, DEVICE=auto|cpu|cuda[:n], DTYPE=
	$(BIN)/python -m server --model '$(MODEL)' --port $(PORT) --device $(DEVICE) --dtype $(DTYPE)

test: $(READY) ## run the tests
	$(BIN)/python -m pytest tests

fuzz: $(READY) ## send FUZZ=100000 hostile requests to a server
	THERMOSTAT_FUZZ=$(FUZZ) $(BIN)/python -m pytest -s tests/whole/test_fuzz.py

soak: $(READY) ## mixed load with faults for MINUTES=5, and what it leaves behind
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

clients: $(READY) $(BUILDS) ## build the clients of every language, and run their examples and the conformance suite
	CLIENTS="$(CLIENTS)" $(BIN)/python -m pytest tests/conformance

$(BUILDS): build-%: $(READY)
	$(MAKE) -C clients/$* build check

build-previous: | $(filter build-typescript,$(BUILDS))

clients-toolchains: ## install from Debian what `make clients` lacks
	sh clients/toolchains.sh

bench: $(READY) ## time the sampler and the engine against the naive way and Hugging Face; writes benchmarks/results
	$(BIN)/python -m benchmarks.sampler
	$(BIN)/python -m benchmarks.engine

bench-peers: $(READY) ## time the engine against llama.cpp, vLLM and OpenVINO, which it installs under build/peers
	$(BIN)/python -m benchmarks.peers

bench-gpu: ## check and time the decode step on a GPU; writes benchmarks/results/gpu.md
	$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu

lint: $(READY) ## ruff, mypy, clang-format, buf
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror adaptive/cpu/*.cpp adaptive/cpu/*.h server/engine/*.cpp
	$(BIN)/mypy
	cd clients/python && ../../$(BIN)/mypy
	$(BIN)/buf lint protos
	$(BIN)/buf format --diff --exit-code protos
	$(BIN)/buf format --diff --exit-code tests/conformance
	$(BIN)/buf breaking protos --against protos/released.binpb
	$(BIN)/python docs/snippets.py --check

format: $(READY) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i adaptive/cpu/*.cpp adaptive/cpu/*.h server/engine/*.cpp
	$(BIN)/buf format --write protos
	$(BIN)/buf format --write tests/conformance
	$(BIN)/python docs/snippets.py

.venv-proto/.ready: Makefile
	$(PYTHON) -m venv .venv-proto
	.venv-proto/bin/pip install --quiet --disable-pip-version-check $(PROTO_TOOLS)
	@touch $@

proto: .venv-proto/.ready ## the Python stubs from protos/, and build/thermostat.binpb, the descriptor set
	@mkdir -p build
	.venv-proto/bin/python -m grpc_tools.protoc -Iprotos --python_out=clients/python --pyi_out=clients/python \
		--grpc_python_out=clients/python \
		--descriptor_set_out=build/thermostat.binpb --include_imports --include_source_info protos/thermostat/v1/*.proto

clean: ## remove what was set up
	rm -rf $(VENV) .venv-proto build clients/*/build clients/typescript/gen clients/typescript/node_modules
