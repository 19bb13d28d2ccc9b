"""Compare without an editor: nothing is written, the clip passes through."""

from __future__ import annotations

import sys

import pytest
import torch
from steadyedit.standalone.run import run_standalone

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")


def test_it_passes_the_clip_through_and_writes_nothing(tmp_path):
    graph = {
        "1": {"class_type": "SteadyEditToyClip", "inputs": {"seed": 3, "frames": 2, "size": 32, "edit": "colour",
                                                             "split": "demo"}},
        "2": {"class_type": "SteadyEditCompare", "inputs": {"before": ["1", 0], "after": ["1", 4], "fps": 8.0}},
    }  # fmt: skip
    run = run_standalone(graph, tmp_path)
    assert torch.equal(run.results["2"][0], run.results["1"][4])
    assert not list(tmp_path.rglob("*.*"))
