# The first call of any target makes .venv and installs what the pack needs; later calls skip that.
# Variables: PYTHON (3.10 or newer), TORCH (what pip installs where .venv has no torch yet),
# COMFYUI_PATH and COMFYUI_PYTHON (the host of host-test; else the ComfyUI that this folder sits in, else ~/comfy/ComfyUI).

PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --disable-pip-version-check
READY := $(VENV)/.steadyedit-ready
# A worker a core, four at the most: each has models of its own in memory. A file's tests stay together.
WORKERS := -n logical --maxprocesses 4 --dist loadfile

.PHONY: demo test host-test lint

demo: $(READY)
	@$(RUN) -m steadyedit demo

test: $(READY)
	@$(RUN) -m pytest -q $(WORKERS) tests

host-test: $(READY)
	@$(RUN) tests/host/run.py

# The root folder is the package itself: the type checker finds it by a link of the package's name.
lint: $(READY)
	@$(RUN) -m ruff check .
	@$(RUN) -m vulture
	@mkdir -p $(VENV)/types && ln -sfn ../.. $(VENV)/types/steadyedit
	@MYPYPATH=$(VENV)/types $(RUN) -m mypy

$(READY): Makefile requirements.txt pyproject.toml setup.py
	@command -v $(PYTHON) >/dev/null || \
	  { echo "SteadyEdit needs Python 3.10 or newer, and '$(PYTHON)' was not found." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "SteadyEdit needs Python 3.10 or newer; '$(PYTHON)' is older: set PYTHON=/path/to/a/newer/python." >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	    { echo "python3-venv is missing: install it (Debian, Ubuntu: apt install python3-venv) and call make again." >&2; exit 1; }; \
	  echo "Setting up $(VENV): once, a few minutes ..."; \
	  $(PYTHON) -m venv --clear $(VENV); }
	@$(RUN) -c 'import torch' 2>/dev/null || $(PIP) install "$(TORCH)"
	@$(PIP) install -e ".[test]"
	@touch $@
