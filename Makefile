# `make demo`: log to served answers, on this machine. `make test`: everything CI runs.
# Both set up `.venv` first, from pinned versions, and reuse it afterwards.

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin
EXTRAS := $(shell nvidia-smi >/dev/null 2>&1 && echo gpu,train-gpu,tracing,tune,dev || echo cpu,train,jax,tracing,tune,dev)

MINUTES ?= 10
.PHONY: setup demo test check fuzz clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml setup.py constraints.txt $(wildcard protos/serving/v1/*.proto)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$(EXTRAS)]'
	touch $@

demo: setup
	$(RUN)/python -m pipelines.demo

check: setup
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

test: check
	$(RUN)/python -m pytest -n 2 --dist loadfile

# Hostile requests and bundles against the demo's bundle, for MINUTES.
fuzz: setup
	$(RUN)/python -m benchmarks.fuzz --bundle runs/demo/bundle --minutes $(MINUTES)

clean:
	rm -rf runs build *.egg-info .pytest_cache .mypy_cache .ruff_cache
