"""The flow-matching editor's weights in the host's own FLUX class, with core's reference latents."""

from __future__ import annotations

import comfy.latent_formats
import comfy.ldm.flux.model
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import node_helpers
import pytest
import torch
from steadyedit.toyworld.models import flow_editor
from steadyedit.toyworld.training.recipes.flow_start import give_back_the_source
from steadyedit.toyworld.training.recipes.unet import SCALE
from tolerances import NETWORK, RUN


@pytest.fixture(scope="module")
def standalone():
    """Random weights about the training's start: no layer at a start that hides it."""
    torch.manual_seed(0)
    network = flow_editor.build()
    give_back_the_source(network)
    for parameter in network.eval().requires_grad_(False).parameters():
        parameter.add_(0.03 * torch.randn(parameter.shape))
    return network


@pytest.fixture(scope="module")
def model(standalone):
    """MODEL of the host's class. Its loader would find FLUX, but with 16 channels of latents and heads of 128."""
    source = flow_editor.CONFIG
    heads = source["num_attention_heads"]
    settings = comfy.supported_models.FluxSchnell({
        "image_model": "flux", "in_channels": 4, "out_channels": 4, "vec_in_dim": source["pooled_projection_dim"],
        "context_in_dim": source["joint_attention_dim"], "hidden_size": heads * source["attention_head_dim"],
        "mlp_ratio": 4.0, "num_heads": heads, "depth": source["num_layers"],
        "depth_single_blocks": source["num_single_layers"], "axes_dim": list(source["axes_dims_rope"]),
        "theta": flow_editor.THETA, "patch_size": flow_editor.PATCH, "qkv_bias": True, "guidance_embed": False,
        "txt_ids_dims": [],
    })
    settings.latent_format = comfy.latent_formats.SD15()
    settings.sampling_settings = {"shift": flow_editor.SHIFT, "multiplier": 1.0}
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, "", device=torch.device("cpu"))
    state = settings.process_unet_state_dict(flow_editor.to_flux(standalone.state_dict()))
    base.diffusion_model.load_state_dict(state, strict=True)
    return comfy.model_patcher.ModelPatcher(base, comfy.model_management.get_torch_device(), torch.device("cpu"))


@pytest.mark.parametrize("size", [(8, 8), (4, 12)])
def test_the_network_agrees_with_the_one_that_trains(standalone, model, size):
    generator = torch.Generator().manual_seed(1)
    z, source = torch.randn(2, 4, *size, generator=generator), torch.randn(2, 4, *size, generator=generator)
    text, pooled = torch.randn(2, 16, 96, generator=generator), torch.randn(2, 96, generator=generator)
    sigma = torch.tensor([0.2, 0.9])
    network = model.model.diffusion_model
    assert type(network) is comfy.ldm.flux.model.Flux
    with torch.no_grad():
        expected = flow_editor.velocity(standalone, z, source, sigma, text, pooled)
        found = network(z.clone(), sigma, text, y=pooled, ref_latents=[source])
    assert expected.std() > 0.1
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()


def test_core_s_sampler_with_reference_latents_is_the_judge_s(standalone, model):
    generator = torch.Generator().manual_seed(2)
    noise, raw = (torch.randn(1, 4, 8, 8, generator=generator) for _ in range(2))
    text, pooled = torch.randn(1, 16, 96, generator=generator), torch.randn(1, 96, generator=generator)
    steps = 4
    u = torch.linspace(1, 0, steps + 1)
    sigmas = flow_editor.SHIFT * u / (1 + (flow_editor.SHIFT - 1) * u)
    conditioning = node_helpers.conditioning_set_values([[text, {"pooled_output": pooled}]],
                                                        {"reference_latents": [raw]}, append=True)
    found = comfy.sample.sample(model, noise, steps, 1.0, "euler", "simple", conditioning, conditioning,
                                torch.zeros_like(noise), sigmas=sigmas, disable_pbar=True, seed=0)
    z = noise
    with torch.no_grad():
        for now, then in zip(sigmas.tolist(), sigmas[1:].tolist()):
            z = z + (then - now) * flow_editor.velocity(
                standalone, z, raw * SCALE, torch.tensor([now]), text, pooled)
    assert (found * SCALE - z).abs().max() < RUN * z.abs().max()
