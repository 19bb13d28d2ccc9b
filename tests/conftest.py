"""Make the tree importable as ``steadyedit`` where it is not installed; shared fixtures."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

# Workers that run beside each other, and what they start, share the cores out: threads that wait for each other's
# cores take many times as long. Before torch comes, which asks only once.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0"))) > 1:
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

import pytest
import torch

NAME = "steadyedit"

if importlib.util.find_spec(NAME) is None:
    root = Path(__file__).resolve().parents[1]
    spec = importlib.util.spec_from_file_location(NAME, root / "__init__.py", submodule_search_locations=[str(root)])
    module = importlib.util.module_from_spec(spec)
    sys.modules[NAME] = module
    spec.loader.exec_module(module)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from work_order import by_file

    return by_file(config, log)


@pytest.fixture
def poisoned():
    """Memory that nobody has written holds NaN, so that an output left out shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture
def untrained(monkeypatch, tmp_path):
    """Untrained models of the toy world, the same for all tests, and a folder of its own for tuned weights."""
    from steadyedit.toyworld import models

    def load(name):
        torch.manual_seed(0)
        return models.BUILDERS[name]().eval().requires_grad_(False)

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "weights"))
