# Everything runs in .venv; the first target that needs it builds it, later ones reuse it.
# On a CUDA machine, the first time: make demo TORCH_INDEX=https://download.pytorch.org/whl/cu130

TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PYTHON ?= $(or $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done),python3)

BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
TOOLS := .venv/tools/bin
INTO_WHEEL := $(TOOLS)/python -m pip --python .venv/wheel/bin/python --disable-pip-version-check -qq
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# A process per core, each with one thread of arithmetic: files stay whole, for what they set up is shared.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n logical --maxprocesses 8 --dist loadfile --no-loadscope-reorder

export HF_HUB_OFFLINE := 1

.PHONY: help venv demo test coverage test-slow fuzz bench lint docs dist audit sbom clean
.DEFAULT_GOAL := help

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):.*##/\1 /p' Makefile | while read -r name text; do printf '%-10s %s\n' "$$name" "$$text"; done

venv: .venv/.test  ## build .venv with everything the tests and linters need

demo: .venv/.runtime  ## base -> SFT -> DPO -> arithmetic on the bundled model, then its report
	@$(BIN)/limber demo $(ARGS)

test: .venv/.test  ## unit tests and doctests
	@$(PYTEST) -m "not slow" $(ARGS)

coverage: .venv/.test  ## the same, and which lines and branches they reach
	@$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered $(ARGS)

test-slow: .venv/.test  ## the tests that train, kill or measure for longer
	@$(PYTEST) -m slow $(ARGS)

fuzz: .venv/.test  ## changed files for every reader: make fuzz ARGS="probe geometry --minutes 10"
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz $(ARGS)

bench: .venv/.test  ## the benchmarks, gathered in benchmarks/results.json
	@$(BIN)/python -m benchmarks $(ARGS)

lint: .venv/.test  ## ruff, mypy --strict and the import contracts
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

docs: .venv/.docs  ## the documentation, into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

dist: .venv/.tools  ## wheel and source archive, into dist/, checked
	@rm -rf dist
	@$(TOOLS)/python -m build --outdir dist . >/dev/null
	@$(TOOLS)/twine check --strict dist/*
	@$(TOOLS)/check-wheel-contents dist/*.whl

audit: .venv/.wheel  ## known vulnerabilities of what the wheel brings; asks an advisory service
	@$(TOOLS)/python .ci/audit.py .venv/wheel/bin/python

sbom: .venv/.wheel  ## what the wheel brings, as CycloneDX JSON: dist/sbom.cdx.json
	@version=$$(.venv/wheel/bin/python -c 'from importlib import metadata; print(metadata.version("limberlm"))'); \
	  sed "s/^dynamic = .*/version = \"$$version\"/" pyproject.toml > .venv/released.toml
	@$(TOOLS)/cyclonedx-py environment --pyproject .venv/released.toml --mc-type library --output-reproducible \
	  --output-file dist/sbom.cdx.json .venv/wheel/bin/python

clean:  ## remove .venv, caches and built files (never runs/)
	rm -rf .venv .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist site
	find src tests benchmarks docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# torch comes first and alone, from the index of its CPU wheels. Where that address does not answer pip goes on with
# the index it is configured with; only that one page is asked for, once, so it costs seconds at most.
.venv/.torch: constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else "limberlm needs Python 3.11 or \
	newer and $(PYTHON) is %d.%d: name another with make PYTHON=/path/to/python3.11" % v[:2])'
	@echo "Setting up .venv: torch $(TORCH), then limberlm and its dependencies. Once, a few minutes."
	@$(PYTHON) -m venv .venv
	@$(PIP) install --no-deps --retries 0 --timeout 15 --extra-index-url "$(TORCH_INDEX)" "torch==$(TORCH)"
	@touch $@

.venv/.runtime: .venv/.torch pyproject.toml
	@$(PIP) install -c constraints.txt -e .
	@touch $@

.venv/.test: .venv/.torch pyproject.toml
	@$(PIP) install -c constraints.txt -e ".[test,dev]"
	@touch .venv/.runtime $@

.venv/.tools: .ci/tools.txt
	@$(PYTHON) -m venv .venv/tools
	@$(TOOLS)/python -m pip --disable-pip-version-check -qq install -r .ci/tools.txt
	@touch $@

# The wheel and what it brings, and nothing else, not even pip.
.venv/.wheel: dist
	@rm -rf .venv/wheel
	@$(PYTHON) -m venv --without-pip .venv/wheel
	@$(INTO_WHEEL) install --no-deps --retries 0 --timeout 15 --extra-index-url "$(TORCH_INDEX)" "torch==$(TORCH)"
	@$(INTO_WHEEL) install -c constraints.txt dist/limberlm-*.whl

.venv/.docs: .venv/.torch pyproject.toml
	@$(PIP) install -c constraints.txt -e ".[docs]"
	@touch .venv/.runtime $@
