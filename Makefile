# `make search` and `make test` are all a fresh machine needs: they make .venv, install the project, and run.
VENV   ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
EXTRAS ?= test,onnx
# make search CONFIG=my.yml ARGS='--engine sequential'
CONFIG ?=
ARGS   ?=
# Two pytest workers by default: each imports torch and NNI, about 1 GB.
JOBS   ?= 2

BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
TESTED  := $(VENV)/.installed-for-tests
PACKAGE := setup.cfg pyproject.toml

.PHONY: help install search test test-oldest soak lint lint-style lint-imports lint-types lint-tools docs clean
.DEFAULT_GOAL := help

help:
	@echo 'make search    install, then search operators for a small ResNet on real images (CONFIG=, ARGS=)'
	@echo 'make test      install, then run the tests (ARGS=, JOBS=)'
	@echo 'make test-oldest   the tests with the oldest dependencies that setup.cfg allows'
	@echo 'make soak      kill real searches a hundred times and let them go on; ten thousand hostile inputs; most of an hour'
	@echo 'make lint      ruff, import-linter, mypy'
	@echo 'make docs      the documentation site in site/; a broken link is an error'
	@echo 'make install   an editable install into $(VENV) (EXTRAS=all for every optional part)'
	@echo 'make clean     remove build leftovers; run directories and $(VENV) stay'

install: $(STAMP)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'error: $(PYTHON) is older than Python 3.11; try make PYTHON=/path/to/python3.11' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# Reinstalled only when the packaging changes: the install is editable.
$(STAMP): $(PACKAGE) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -e '.[$(EXTRAS)]'
	@touch $@

# With the optional parts that tests run where they are there: ONNX, OpenVINO, Graphviz.
$(TESTED): $(STAMP)
	@$(BIN)/python -m pip install --quiet -e '.[test,onnx,openvino,draw]' && touch $@ || \
	  echo 'note: not all of ONNX, OpenVINO and Graphviz can be installed here; the tests that need them will skip' >&2

search: $(STAMP)
	$(BIN)/syno-nni search $(CONFIG) $(ARGS)

test: $(TESTED)
	$(BIN)/python -m pytest -n $(JOBS) $(ARGS)

# With the oldest version of every dependency that setup.cfg allows, in an environment of its own.
test-oldest:
	@test -x .venv-oldest/bin/python || $(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet -c tests/oldest.txt -e '.[test]'
	.venv-oldest/bin/python -m pytest -n $(JOBS) $(ARGS)

soak: $(TESTED)
	$(BIN)/python -m pytest -m soak $(ARGS)

lint: lint-style lint-imports lint-types

lint-tools: $(STAMP)
	@$(BIN)/python -c 'import importlinter, mypy' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[dev]'

lint-style: lint-tools
	$(BIN)/ruff check .

# import-linter wants the package in one tree, which the mapped folders are not; a build is.
lint-imports: lint-tools
	@rm -rf build/lint
	@$(BIN)/python -c "import setuptools; setuptools.setup(script_args=['-q', 'build_py', '--build-lib', 'build/lint'])" 2>/dev/null
	cd build/lint && PYTHONPATH=. $(abspath $(BIN))/lint-imports --config $(CURDIR)/.importlinter

lint-types: lint-tools
	$(BIN)/mypy

# Not --quiet, under which --strict sees no warning. Like the linter, what reads the docstrings wants the package in one tree.
docs: $(STAMP)
	@$(BIN)/python -c 'import material, mkdocstrings' 2>/dev/null || $(BIN)/python -m pip install --quiet -e '.[docs]'
	@rm -rf build/docs
	@$(BIN)/python -c "import setuptools; setuptools.setup(script_args=['-q', 'build_py', '--build-lib', 'build/docs'])" 2>/dev/null
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +
