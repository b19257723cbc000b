# Each target sets itself up: `make train` on a fresh machine needs Python 3.11 or newer, and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CONSTRAINT := constraints.txt

.PHONY: train test check bench clean

train: $(VENV)/.installed
	$(BIN)/rl-lightning fit -c configs/sac/pendulum.yaml

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q --numprocesses auto --dist loadfile

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.on_policy
	$(BIN)/python -m benchmarks.off_policy

clean:
	rm -rf $(VENV) build dist *.egg-info

# torch comes first and pinned: asked for loosely, pip may take a build with gigabytes of CUDA packages
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --editable '.[atari,mujoco,dev,bench]'
	touch $@
