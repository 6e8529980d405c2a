# Every target does its own set-up; the first run downloads what uv.lock pins and caches it.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
CACHE ?= $(or $(LASTTOKEN_CACHE),$(HOME)/.cache/lasttoken)
UV_HOME := $(CACHE)/uv-$(UV_VERSION)
UV := PYTHONPATH=$(UV_HOME) $(PYTHON) -m uv
BIN := .venv/bin
# torch is a reference only (parity tests, peers): pip installs it, apart from what uv.lock pins.
TORCH ?= torch==2.13.0
# Of the demonstration: fp32, fp16, int8, int8-weights or int4.
PRECISION ?= fp32
# Of `make fuzz`.
FUZZ_EXAMPLES ?= 2000
FUZZ_SECONDS ?= 30
ENCODER := model_repository/sfr_embedding_mistral_encoder/1
TOKENIZER := model_repository/sfr_embedding_mistral_tokenizer/1
export UV_PYTHON_DOWNLOADS := never
export PATH := $(UV_HOME)/bin:$(PATH)

.PHONY: help setup setup-dev reference integrations demo test chart-matrix lint format audit sbom fuzz bench bench-client bench-corpus bench-export bench-plans bench-gpu gpu-bundle gpu-unpack precision-table parity gguf-files llama-cpp-parity soak soak-mixed faults clean
help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

# `pip install --target` also works where the distribution's Python refuses a plain install.
$(UV_HOME)/.done:
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --target $(UV_HOME) uv==$(UV_VERSION) \
	  || { echo "error: uv $(UV_VERSION) could not be installed from PyPI; is this machine online and has $(PYTHON) pip?" >&2; exit 1; }
	@touch $@

.venv/pyvenv.cfg: $(UV_HOME)/.done
	@$(UV) venv --quiet --seed --python $(PYTHON) .venv

.venv/.demo: .venv/pyvenv.cfg uv.lock pyproject.toml export/pyproject.toml client/pyproject.toml perf/pyproject.toml
	@$(UV) sync --quiet --locked --inexact
	@touch $@

.venv/.dev: .venv/.demo
	@$(UV) sync --quiet --locked --inexact --group dev
	@touch $@

.venv/.reference: .venv/.dev
	@$(UV) sync --quiet --locked --inexact --group dev --group reference
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

.venv/.integrations: .venv/.reference
	@$(UV) sync --quiet --locked --inexact --group dev --group reference --group integrations --group plans --group supply-chain
	@touch $@

.venv/.supply-chain: .venv/.demo
	@$(UV) sync --quiet --locked --inexact --group supply-chain
	@touch $@

.venv/.fuzz: .venv/.dev
	@$(UV) sync --quiet --locked --inexact --group dev --group fuzz
	@touch $@

.venv/.plans: .venv/.demo
	@$(UV) sync --quiet --locked --inexact --group plans
	@touch $@

setup: .venv/.demo ## Install what serving, exporting and the demo need
setup-dev: .venv/.dev ## The same and the tools of `make lint`
reference: .venv/.reference ## The same and torch, transformers, sentence-transformers
integrations: .venv/.integrations ## The same and the tools that the client has adapters for

demo: .venv/.demo ## Export the demonstration model, serve it with a real Triton, embed over gRPC
	@$(BIN)/lasttoken demo --precision $(PRECISION)

test: .venv/.integrations ## All tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

chart-matrix: .venv/.dev ## Render the chart with 300 combinations of values, and validate what comes out
	@$(BIN)/python -m pytest -q tests/docker/test_chart_matrix.py --whole-chart-matrix -o faulthandler_timeout=3900

lint: .venv/.dev ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -p lasttoken -p lasttoken_export -p lasttoken_perf
	@cd $(ENCODER) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml .
	@cd $(TOKENIZER) && $(CURDIR)/$(BIN)/mypy --config-file $(CURDIR)/pyproject.toml .

format: .venv/.dev ## Format the code
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format .

# AUDIT_ARGS="--required" fails where no advisory service answers; without it that is said, and passes.
audit: .venv/.supply-chain ## Known vulnerabilities of everything that is locked
	@$(BIN)/python docker/scripts/audit.py $(AUDIT_ARGS)

sbom: .venv/.supply-chain ## A CycloneDX list of each image's locked packages, in build/sbom
	@PATH="$(CURDIR)/$(BIN):$$PATH" docker/scripts/sbom.sh build/sbom

# Both halves: properties on many random inputs, then atheris, which looks for new paths.
fuzz: .venv/.fuzz ## Hostile input to every reader: FUZZ_EXAMPLES a property, FUZZ_SECONDS a reader
	@LASTTOKEN_FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz
	@$(BIN)/python tests/fuzz/coverage_guided.py --seconds $(FUZZ_SECONDS)

bench: .venv/.reference ## Served throughput against the bare engine and sentence-transformers
	@$(BIN)/lasttoken-perf bench --output build/bench.json

precision-table: .venv/.demo ## Size, memory, speed and quality of each precision; writes docs/measurements/precisions.md
	@$(BIN)/lasttoken-perf precisions --output docs/measurements/precisions.json --table docs/measurements/precisions.md

soak: .venv/.demo ## 10,000 requests of 64 clients with random cancels and deadlines
	@$(BIN)/lasttoken-perf soak --output build/soak.json

soak-mixed: .venv/.integrations ## 30 minutes of mixed traffic at 0.8 of the capacity, by gRPC and through a gateway
	@$(BIN)/lasttoken-perf soak --minutes 30 --load 0.8 --output build/soak-mixed.json

faults: .venv/.integrations ## Faults on a live server under load; writes docs/measurements/faults.md
	@$(BIN)/lasttoken-perf faults --output docs/measurements/faults.json --table docs/measurements/faults.md

parity: .venv/.reference ## The parity tests; writes docs/measurements/parity.md
	@$(BIN)/python -m pytest tests/parity --parity-table docs/measurements/parity.md

# llama.cpp is compiled by pip: minutes. Its files are under version control, so only a change of
# what makes them needs this. Its converter is in the sources of the same package.
LLAMA_CPP := llama-cpp-python==0.3.36
build/llama-cpp/.done: .venv/.reference
	@$(UV) venv --quiet --seed --clear --python $(PYTHON) build/llama-cpp
	@build/llama-cpp/bin/python -m pip install --quiet --disable-pip-version-check $(LLAMA_CPP) gguf==0.19.0 numpy scikit-build-core
	@build/llama-cpp/bin/python -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation --no-binary llama-cpp-python --dest build/llama-cpp $(LLAMA_CPP)
	@tar -xzf build/llama-cpp/llama_cpp_python-*.tar.gz -C build/llama-cpp --strip-components=2 --wildcards '*/vendor/llama.cpp/*.py'
	@touch $@

gguf-files: build/llama-cpp/.done ## Make the files of tests/parity/llama_cpp anew, with llama.cpp itself
	@build/llama-cpp/bin/python tests/parity/llama_cpp/make_files.py
	@$(BIN)/python tests/parity/llama_cpp/convert_encoders.py build/llama-cpp/llama.cpp
	@for name in bert xlm-roberta nomic-bert; do \
	  build/llama-cpp/bin/python tests/parity/llama_cpp/embed_file.py tests/parity/llama_cpp/tiny-$$name.{gguf,npz} || exit 1; done

llama-cpp-parity: build/llama-cpp/.done ## Real weights against llama.cpp; writes docs/measurements/llama-cpp.md
	@$(BIN)/python tests/parity/llama_cpp/compare_real_weights.py build/llama-cpp/bin/python build/llama-cpp/llama.cpp docs/measurements/llama-cpp.md

bench-client: .venv/.demo ## Vectors/s and CPU of clients against a Triton whose encoder costs nothing
	@$(BIN)/lasttoken-perf client --output build/bench-client.json

bench-corpus: .venv/.integrations ## embed-corpus on 100,000 short texts against the bare engine
	@$(BIN)/lasttoken-perf corpus --output build/bench-corpus.json

bench-export: .venv/.demo ## Export a random checkpoint of SFR's exact shape: time, peak memory, bytes
	@$(BIN)/lasttoken-perf export --output build/bench-export.json

bench-plans: .venv/.plans ## Build plans by precision, without a GPU: size, time, memory
	@$(BIN)/lasttoken-perf plans --output build/plans.json

# On the GPU machine: its own Python has torch; what else is missing there comes in the bundle.
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)
GPU_SITE := build/gpu-site
bench-gpu: ## On a machine with a GPU and torch, no network needed: docs/gpu.md
	@$(if $(wildcard $(GPU_SITE)/wheels),PIP_NO_INDEX=1 PIP_FIND_LINKS=$(CURDIR)/$(GPU_SITE)/wheels) \
	  PYTHONPATH=$(CURDIR)/$(GPU_SITE)/site:$(CURDIR)/client/src:$(CURDIR)/export/src:$(CURDIR)/perf/src \
	  $(GPU_PYTHON) -m lasttoken_perf.gpu_suite $(GPU_ARGS)

gpu-bundle: .venv/.demo ## Pack what a GPU machine without network lacks: GPU_BUNDLE="--has FILE --triton"
	@$(BIN)/python -m lasttoken_perf.gpu_suite.bundle $(GPU_BUNDLE)

gpu-unpack: ## There: unpack the parts of build/gpu-bundle
	@mkdir -p $(GPU_SITE) && cat build/gpu-bundle/part-* | tar -xzf - -C $(GPU_SITE)

clean: ## Remove the environments and build products of this checkout
	@rm -rf .venv build
