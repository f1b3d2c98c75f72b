# `make` lists the targets. Every target that needs the package sets it up first, in $(VENV).
#     make demo OUT=out/other     make install EXTRAS=gpu,demo,test     make test PYTEST_ARGS='-k run'

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
EXTRAS ?= cpu,demo,test
OUT ?= out/nano
HUB ?= out/hub
PORT ?= 8765
PYTEST_ARGS ?=
# Processes that share the tests, each the half of the files until one of them is done.
JOBS ?= 2

# A second environment for the lowest versions, and the tests of what meets them: arrays, formats, models, trainers.
LOWEST := .venv-lowest
LOWEST_EXTRAS := cpu,demo,test
LOWEST_TESTS := $(foreach name,bm25 candidates collator collection compat config dense distillation evaluation \
  gradient_cache health listwise lora losses lucene measures padding_free pretraining publishing rankers report \
  retriever_training run sampling splade,tests/test_$(name).py)

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEV_INSTALLED := $(VENV)/.installed-dev
DOCS_INSTALLED := $(VENV)/.installed-docs
TYPED := r2anker_hf
PYTEST = $(BIN)/python -m pytest --timeout 1200

INTERPRETERS := $(PYTHON) python3 python3.13 python3.12 python3.11 python3.14
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
PIP_INSTALL = $(BIN)/python -m pip install -e '.[$(1)]' -c constraints.txt

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: install
install: $(INSTALLED) ## make .venv with the package in it; again only if setup.py or constraints.txt changed

$(INSTALLED): setup.py constraints.txt
	@if $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  if ! $(BIN)/python -c '$(NEW_ENOUGH)'; then \
	    echo "error: $(VENV) holds $$($(BIN)/python --version), but 3.11 or newer is needed; remove it and try again" >&2; \
	    exit 2; \
	  fi; \
	else \
	  found=; \
	  for candidate in $(INTERPRETERS); do \
	    if "$$candidate" -c '$(NEW_ENOUGH)' 2>/dev/null; then found=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: Python 3.11 or newer is needed; tried $(strip $(INTERPRETERS)); name one: make PYTHON=/path/to/python" >&2; \
	    exit 2; \
	  fi; \
	  echo "making $(VENV) with $$("$$found" --version)"; \
	  "$$found" -m venv $(VENV); \
	fi
	$(call PIP_INSTALL,$(EXTRAS))
	@touch $@

$(DEV_INSTALLED): $(INSTALLED)
	$(call PIP_INSTALL,dev)
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(call PIP_INSTALL,docs)
	@touch $@

.PHONY: demo
demo: install ## the whole story on the embedded collection, from retrieval to report, into OUT (out/nano)
	PATH="$(abspath $(BIN)):$$PATH" OUT='$(OUT)' bash recipes/nano/run.sh

# In another shell, the printed HF_ENDPOINT and HF_TOKEN let every client of the Hub talk to this one.
.PHONY: hub
hub: install ## a Hub on this machine to publish to and load from, kept in HUB (out/hub), on PORT (8765)
	$(BIN)/python tests/hub_server.py --folder '$(HUB)' --port $(PORT)

# Tests reach no network; tests/conftest.py sets the same, and doctests run without it.
quick test test-all test-lowest doctest: export HF_HUB_OFFLINE := 1
quick test test-all test-lowest doctest: export HF_DATASETS_OFFLINE := 1
quick test test-all test-lowest doctest: export TOKENIZERS_PARALLELISM := false
# Toy models gain nothing from threads, and lose much on a busy machine.
quick test test-all test-lowest: export OMP_NUM_THREADS := 1

.PHONY: quick
quick: install ## the tests that train no model, within a minute of two cores
	$(PYTEST) -n $(JOBS) --quick $(PYTEST_ARGS) tests

.PHONY: test
test: lint doctest ## linter, doctests and every test that is not slow
	$(PYTEST) -n $(JOBS) --dist worksteal -m 'not slow' $(PYTEST_ARGS) tests

.PHONY: test-all
test-all: lint doctest ## the same with the slow tests
	$(PYTEST) -n $(JOBS) --dist worksteal $(PYTEST_ARGS) tests

# The lowest versions have built packages for the oldest Python only; compiling them is not what is tested.
$(LOWEST)/.installed: $(INSTALLED) tests/lowest.py
	$(BIN)/python -m venv $(LOWEST)
	$(BIN)/python tests/lowest.py $(LOWEST_EXTRAS) > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --only-binary :all: -c $(LOWEST)/constraints.txt -e '.[$(LOWEST_EXTRAS)]'
	@touch $@

.PHONY: test-lowest
test-lowest: $(LOWEST)/.installed ## tests of what meets the dependencies, on the lowest versions that setup.py admits
	$(LOWEST)/bin/python -m pytest --timeout 1200 -m 'not slow' $(PYTEST_ARGS) $(LOWEST_TESTS)

.PHONY: doctest
doctest: install ## the examples in the docstrings
	$(PYTEST) --doctest-modules r2anker_hf

.PHONY: lint
lint: install ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: install ## let ruff put rules and layout right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: types
types: $(DEV_INSTALLED) ## mypy on the package
	$(BIN)/mypy $(TYPED)

# mkdocs-material advertises its successor otherwise.
.PHONY: docs
docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DOCS_INSTALLED) ## the documentation site, into site/; a link that leads nowhere is an error
	$(BIN)/mkdocs build --strict --quiet

.PHONY: docker
docker: ## build the image r2anker_hf; DOCKER_ARGS='--build-arg FAISS=gpu' for GPUs
	docker build --tag r2anker_hf $(DOCKER_ARGS) .

.PHONY: clean
clean: ## remove builds and caches; environments and out stay
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find r2anker_hf recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +
