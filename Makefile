# `make run` and `make test` are all a newcomer needs; the rest is listed by `make help`.
SHELL := /bin/bash
.DELETE_ON_ERROR:

VENV ?= .venv
# cpu or gpu: which onnxruntime is installed. Never both.
ACCELERATOR ?= cpu
PORT ?= 8080
MODEL_PORT ?= 8081
PACKAGES := proxy rass detectors benchmarks
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(ACCELERATOR)
CLIENTS := tests/proxy/clients/node

.PHONY: help install run demo test check format client-packages test-clients test-dialects test-llama-cpp bench load \
        soak bundle reference-model lock clean

help: ## what each target does
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 20

install: $(STAMP) ## create .venv and install everything into it, once

$(STAMP): pyproject.toml requirements.lock requirements-litellm.lock scripts/install.sh scripts/check_extras.py
	VENV=$(VENV) ACCELERATOR=$(ACCELERATOR) scripts/install.sh
	@touch $@

run: install ## start model and proxy, print the table, stay up
	$(BIN)/rass-proxy up --demo --port $(PORT) --model-port $(MODEL_PORT)

demo: install ## the table against a proxy that is already up
	$(BIN)/rass-proxy demo

test: install check ## every check and every test
	$(BIN)/python -m pytest

check: install ## lint, format, types, import rules
	$(BIN)/ruff check $(PACKAGES) tests scripts
	$(BIN)/ruff format --check $(PACKAGES) tests scripts
	$(BIN)/mypy --strict $(addprefix -p ,$(PACKAGES))
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_extras.py

format: install ## rewrite the sources in the project's format
	$(BIN)/ruff check --fix $(PACKAGES) tests scripts
	$(BIN)/ruff format $(PACKAGES) tests scripts

client-packages: install ## the Python and Node clients that tests hold conversations with (needs npm)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet -c requirements.lock -e '.[$(ACCELERATOR),dev,clients]'
	npm ci --prefix $(CLIENTS) --no-audit --no-fund

test-clients: client-packages ## conversations of all of them; one that is missing fails
	RASS_CLIENTS=required $(BIN)/python -m pytest tests/proxy/clients

test-dialects: install ## what we send to vLLM's steering plugins, held against their published packages
	$(BIN)/pip install --quiet --upgrade --no-deps --ignore-requires-python --target build/dialects \
	    hotwire-vllm==0.1.2 vllm-lens==1.3.0 cloudpickle==3.1.3 zstandard==0.25.0
	RASS_DIALECT_PACKAGES=build/dialects $(BIN)/python -m pytest tests/dialects

test-llama-cpp: install ## a proxy between two real llama.cpp servers; builds them first (needs cmake and a C++ compiler)
	VENV=$(VENV) scripts/build_llama_server.sh build/llama-cpp
	RASS_LLAMA_SERVER=build/llama-cpp/bin/llama-server $(BIN)/python -m pytest tests/llama_cpp

bench: install ## quality of raw model against proxy; both must be up (make run)
	$(BIN)/rass-bench quality --prompts reference:report \
	    --target raw=http://127.0.0.1:$(MODEL_PORT) --target proxy=http://127.0.0.1:$(PORT)

load: install ## CPU, latency and memory beside a bare relay; PEERS='--portkey DIR --litellm-python FILE'
	$(BIN)/rass-bench load $(PEERS)

soak: install ## 20,000 requests in modes recover and observe, each answer checked
	$(BIN)/rass-bench soak
	$(BIN)/rass-bench soak --mode observe

bundle: install ## build the shipped bundle again from the shipped weights
	$(BIN)/build-vectors --model reference --out rass/reference/bundle

reference-model: install ## train the reference model again, into runs/reference-model
	$(BIN)/rass reference train --out runs/reference-model

lock: ## resolve the dependencies again (needs uv)
	scripts/lock.sh

clean: ## remove the environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
