"""``bench lora_edit_host``: the training runs here as it is to run on a GPU, but for the weights' place and dtype."""

from __future__ import annotations

import math

import pytest
import torch
from steadyedit.benchmarks.lora_edit_host import run
from steadyedit.benchmarks.lora_edit_size.run import fill


def test_a_small_wan_trains_by_the_preset(host, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", str(host))
    report = run.main(["tiny"], sizes=["5x32x32"])
    (row,) = report["rows"]
    assert len(row["losses"]) == 3 and all(map(math.isfinite, row["losses"]))
    assert row["chosen"].startswith("16 GB preset") and row["peak_gib"] > 0 and row["step_seconds"] > 0


def test_it_needs_a_host(monkeypatch):
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(ValueError, match="^lora_edit_host: needs a ComfyUI"):
        run.main(["tiny"])


def test_narrow_weights_are_filled():
    """In fp8, which draws no numbers by itself; every block is the first one's."""
    made = run.settings_of(run.MODELS["tiny"], image=True)
    made.set_inference_dtype(torch.float8_e4m3fn, torch.bfloat16)
    network = made.get_model({}, "", device=torch.device("cpu")).diffusion_model
    fill(network)
    values = {name: value.float() for name, value in network.named_parameters()}
    assert all(value.isfinite().all() for value in values.values())
    own, other = (values[f"blocks.{number}.self_attn.q.weight"] for number in (0, 1))
    assert 0.015 < float(own.std()) < 0.025 and torch.equal(own, other)
