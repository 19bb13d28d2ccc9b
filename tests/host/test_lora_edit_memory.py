"""Memory of training a video transformer, byte by byte, against what is told before it begins."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from steadyedit.benchmarks.common.memory import allocated_peak
from steadyedit.methods.lora import new_lora
from steadyedit.methods.lora_edit.memory import MemoryPlan, plan
from steadyedit.methods.lora_edit.recipe import targeted
from videos import BACKEND, filled, hunyuan15_base, hunyuan_base, sample, wan_base

RANK, LATENT = 4, {"frames": 4, "height": 20, "width": 20}


def built(kind):
    if kind == "hunyuan":
        return filled(hunyuan_base(double=1, single=2), 4)
    if kind == "hunyuan 1.5":
        return filled(hunyuan15_base(double=3), 4)
    return filled(wan_base(dim=128, ffn=384, layers=3, image=kind == "wan"), 4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells of the CPU's allocations")
@pytest.mark.parametrize("kind", ["wan", "plain", "hunyuan", "hunyuan 1.5"])
def test_the_prediction_is_within_a_tenth_of_what_is_measured(kind):
    """PyTorch's own allocations during one step, those inside of operators included; the weights lie there before."""
    patcher, found = built(kind), sample(kind, **LATENT)
    shapes = BACKEND.video_layers(patcher)
    lora = new_lora({name: shapes[name] for name in targeted(shapes, "attention and feed-forward")}, RANK, 0)
    trained = sum(value.numel() for value in lora.values())
    size = BACKEND.video_size(patcher, found, "float32", lora)
    planned = plan(size, found.latent.shape, RANK, trained)
    none = MemoryPlan(0, 0, 0, 0)
    with torch.inference_mode(), BACKEND.video_training(patcher, [found], lora, none, "float32") as view:

        def step():
            noise = torch.randn_like(found.latent)
            noisy, target = 0.6 * found.latent + 0.4 * noise, noise - found.latent
            (view.predict_velocity(noisy, torch.tensor(0.4), 0) - target).square().mean().backward()

        step()
        for parameter in view.parameters.values():
            parameter.grad = None
        _, peak = allocated_peak(step)
    assert planned.activations == pytest.approx(peak * 2**20, rel=0.1)


@pytest.mark.parametrize("kept, wanted", [(None, 40), (100, 900), (990, 40)])
def test_the_host_is_left_no_more_blocks_than_were_asked_for(monkeypatch, kept, wanted):
    """Of 1000 bytes: what training needs, or all but the weights that stay. No GPU is asked."""
    import comfy.model_management
    from steadyedit.backends.comfy_native import video

    asked, patcher = [], SimpleNamespace(load_device=torch.device("cuda"))
    monkeypatch.setattr(video, "free_bytes", lambda patcher: 1000)
    monkeypatch.setattr(comfy.model_management, "free_memory", lambda *args, **named: None)
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", lambda models, **named: asked.append(named))
    video.load(patcher, MemoryPlan(30, 10, 0, 2000, kept))
    assert asked == [{"memory_required": wanted, "minimum_memory_required": wanted}]


def test_float32_is_computed_with_where_it_was_asked_for(monkeypatch):
    from steadyedit.backends.comfy_native import video

    monkeypatch.setattr(video, "training_dtype", lambda device: torch.bfloat16)
    found = [video.precise(asked, torch.device("cpu")) for asked in ("float32", "auto")]
    assert found == [torch.float32, torch.bfloat16]
