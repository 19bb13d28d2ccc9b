# The first call of any target makes .venv and installs what the pack needs; later calls skip that.
# Variables: PYTHON (3.10 or newer), TORCH (what pip installs where .venv has no torch yet),
# COMFYUI_PATH and COMFYUI_PYTHON (the host that host-test runs against).

PYTHON ?= python3
TORCH ?= torch==2.13.0

VENV := .venv
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --quiet --disable-pip-version-check
READY := $(VENV)/.steadyedit-ready

# The host: COMFYUI_PATH, else the ComfyUI whose custom_nodes this folder is in, else ~/comfy/ComfyUI.
HOST := $(or $(COMFYUI_PATH),$(patsubst %/comfy/sd.py,%,$(firstword $(wildcard \
  $(abspath ../..)/comfy/sd.py $(HOME)/comfy/ComfyUI/comfy/sd.py))))
HOST_RUN := $(or $(COMFYUI_PYTHON),$(firstword $(wildcard \
  $(HOST)/.venv/bin/python $(HOST)/venv/bin/python $(HOST)/../venv/bin/python)),$(PYTHON))

.PHONY: demo test host-test host-path lint

demo: $(READY)
	@$(RUN) -m steadyedit demo

test: $(READY)
	@$(RUN) -m pytest -q tests

host-test: host-path
	@$(HOST_RUN) -c 'import torch, pytest' || \
	  { echo "$(HOST_RUN) must have torch and pytest: name the host's Python by COMFYUI_PYTHON." >&2; exit 1; }
	@COMFYUI_PATH="$(HOST)" $(HOST_RUN) -m pytest -q tests/host

host-path:
	@test -f "$(HOST)/comfy/sd.py" || \
	  { echo "No ComfyUI was found: name its folder by COMFYUI_PATH=/path/to/ComfyUI." >&2; exit 1; }
	@echo "ComfyUI: $(HOST)"

lint: $(READY)
	@$(RUN) -m ruff check .

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
