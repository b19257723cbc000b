# Each target sets itself up: `make train` on a fresh machine needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := constraints.txt

.PHONY: train test check docs docs-serve bench gpu clean
.NOTPARALLEL:  # two pips must not write one environment at once

train: $(VENV)/.train
	$(BIN)/rl-lightning fit -c configs/sac/pendulum.yaml

test: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

# the tests with coverage take a third longer, so `make test` goes without
check: $(VENV)/.check $(VENV)/.test docs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile --cov --cov-report=term

# The site, in site/. A link that leads nowhere, an equation that cannot be drawn and a page outside the nav are errors
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

docs-serve: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.on_policy
	$(BIN)/python -m benchmarks.off_policy

# tests and benchmark on a GPU: torch is PyPI's, which is built for CUDA on Linux
gpu: $(VENV)/.test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m gpu --numprocesses 8
	$(BIN)/python -m benchmarks.gpu

clean:
	rm -rf $(VENV) build dist site *.egg-info

# torch comes first and pinned: asked for loosely, pip may take a build with gigabytes of CUDA packages
$(VENV)/.torch: constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	touch $@

# What each target installs beside the package; __init__.py has the version
$(VENV)/.check: EXTRAS = [dev]
$(VENV)/.test: EXTRAS = [atari,envpool,mujoco,onnx,tune,video,dev,bench,docs]
$(VENV)/.docs: EXTRAS = [docs]
$(VENV)/.bench: EXTRAS = [mujoco,bench]
$(VENV)/.train $(VENV)/.check $(VENV)/.test $(VENV)/.docs $(VENV)/.bench: $(VENV)/.torch pyproject.toml rl_lightning/__init__.py
	$(BIN)/python -m pip install --quiet --editable '.$(EXTRAS)'
	touch $@
