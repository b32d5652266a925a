# In a virtual environment of the pack's own. PYTHON=... takes another Python, such as ComfyUI's.
PYTHON ?= .venv/bin/python
# The ComfyUI whose packages `make setup` installs too; the tests look in more places (CONTRIBUTING.md).
COMFYUI_PATH ?= $(wildcard $(HOME)/comfy/ComfyUI)

# Threads of several processes wait for each other.
export OMP_NUM_THREADS ?= 1

.PHONY: setup check test test-host test-browser bench

setup:
	test -x $(PYTHON) || python3 -m venv .venv
	$(PYTHON) -m pip install -e ".[test]" $(patsubst %,-r %/requirements.txt,$(COMFYUI_PATH))

check:
	PYTHON=$(PYTHON) .ci/check

test:
	$(PYTHON) -m pytest tests/core

test-host:
	$(PYTHON) -m pytest -m "not browser" tests/nodes tests/live

test-browser:
	$(PYTHON) -m pytest -m browser tests

bench:
	$(PYTHON) -m tests.bench.masks --out results
