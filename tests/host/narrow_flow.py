"""The host's own flow models, narrow and with random weights."""

from __future__ import annotations

import comfy.model_management
import comfy.model_patcher
import comfy.supported_models
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler, RandomNoise, SamplerCustomAdvanced
from shared import shared
from steadyedit.nodes.flow_edit import FlowEdit

TEXT = 32
#: Of FlowEdit.
STEPS, SEED = 6, 11


def patcher_of(kind, config, **sampling):
    """A MODEL of a class of the host's, its weights drawn so that no layer is at a start that hides it."""
    settings = kind({"dtype": torch.float32, **config})
    settings.sampling_settings = {**settings.sampling_settings, **sampling}
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, "", device="cpu")
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in base.diffusion_model.named_parameters():
            scale, middle = (0.2, 1.0) if "norm" in name and name.endswith(("weight", "scale")) else (0.12, 0.0)
            parameter.copy_(middle + scale * torch.randn(parameter.shape, generator=generator))
    base.diffusion_model.requires_grad_(False).eval()
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


@shared
def _wan():
    return patcher_of(comfy.supported_models.WAN21_T2V, {
        "image_model": "wan2.1", "model_type": "t2v", "dim": 48, "num_heads": 2, "ffn_dim": 64, "num_layers": 2,
        "in_dim": 16, "out_dim": 16, "text_dim": TEXT, "freq_dim": 32, "patch_size": (1, 2, 2), "window_size": (-1, -1),
        "qk_norm": True, "cross_attn_norm": True, "eps": 1e-6}, shift=3.0)


@shared
def _flux(guidance=True):
    return patcher_of(comfy.supported_models.Flux, {
        "image_model": "flux", "in_channels": 16, "out_channels": 16, "vec_in_dim": 16, "context_in_dim": TEXT,
        "hidden_size": 48, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [4, 10, 10], "theta": 10000, "patch_size": 2, "qkv_bias": True, "guidance_embed": guidance,
        "txt_ids_dims": []})


def wan():
    """Text-to-video; latents [1, 16, T', h, w]."""
    return _wan().clone()


def flux(guidance=True):
    """Text-to-image; latents [frames, 16, h, w]."""
    return _flux(guidance).clone()


def text(seed, tokens=5, rows=1, **extra):
    """CONDITIONING of a random text."""
    generator = torch.Generator().manual_seed(seed)
    pooled = {"pooled_output": torch.randn(rows, 16, generator=generator)}
    return [[torch.randn(rows, tokens, TEXT, generator=generator), {**pooled, **extra}]]


def latent(*shape, seed=5):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def flow_edit(patcher, **changes):
    """GUIDER and SAMPLER of the node; ``changes`` of its inputs."""
    settings = {"source": text(1), "target": text(2), "negative": text(3), "source_guidance": 2.0,
                "target_guidance": 4.5, "n_max": 4, "n_min": 0, "n_avg": 1, "shared_noise": True,
                "soft_mask": True} | changes
    return FlowEdit.execute(patcher, **settings).args


def flow_edited(patcher, samples, pair=None, noise=None, steps=STEPS, extra=None, **changes):
    """Through the host's own nodes, as a graph does."""
    guider, sampler = pair or flow_edit(patcher, **changes)
    sigmas = BasicScheduler.execute(patcher, "simple", steps, 1.0)[0]
    noise = noise or RandomNoise.execute(SEED)[0]
    with torch.inference_mode():
        out = SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, {"samples": samples, **(extra or {})})
    return [part["samples"] for part in out.args]


@shared
def _qwen():
    return patcher_of(comfy.supported_models.QwenImage, {
        "image_model": "qwen_image", "in_channels": 64, "num_layers": 2, "attention_head_dim": 24,
        "num_attention_heads": 2, "joint_attention_dim": TEXT, "axes_dims_rope": (4, 10, 10)})


def qwen():
    """Image editor; latents [frames, 16, 1, h, w]."""
    return _qwen().clone()


@shared
def _flux2():
    return patcher_of(comfy.supported_models.Flux2, {
        "image_model": "flux2", "in_channels": 128, "out_channels": 128, "vec_in_dim": None, "context_in_dim": TEXT,
        "hidden_size": 64, "mlp_ratio": 2.0, "num_heads": 2, "depth": 2, "depth_single_blocks": 2,
        "axes_dim": [8, 8, 8, 8], "theta": 2000, "patch_size": 1, "qkv_bias": False, "ops_bias": False,
        "guidance_embed": False, "global_modulation": True, "mlp_silu_act": True, "default_ref_method": "index",
        "ref_index_scale": 10.0, "txt_ids_dims": [3]})


def flux2():
    """FLUX.2 klein's kind; latents [frames, 128, h, w]."""
    return _flux2().clone()


@shared
def hunyuan():
    """HunyuanVideo, text-to-video; latents [1, 16, T', h, w]."""
    return patcher_of(comfy.supported_models.HunyuanVideo, {
        "image_model": "hunyuan_video", "in_channels": 16, "patch_size": [1, 2, 2], "out_channels": 16,
        "vec_in_dim": 16, "axes_dim": [4, 10, 10], "meanflow": False, "context_in_dim": TEXT, "hidden_size": 48,
        "mlp_ratio": 2.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1, "theta": 256, "qkv_bias": True,
        "byt5": False, "guidance_embed": True, "use_cond_type_embedding": False, "vision_in_dim": None,
        "meanflow_sum": False})


@shared
def ltxv():
    """LTX-Video; latents [1, 128, T', h, w]."""
    return patcher_of(comfy.supported_models.LTXV, {
        "image_model": "ltxv", "in_channels": 128, "cross_attention_dim": 48, "attention_head_dim": 24,
        "num_attention_heads": 2, "caption_channels": TEXT, "num_layers": 2})


@shared
def sd3():
    """Stable Diffusion 3; latents [frames, 16, h, w]."""
    made = patcher_of(comfy.supported_models.SD3, {
        "in_channels": 16, "patch_size": 2, "depth": 1, "input_size": None, "adm_in_channels": 16,
        "context_embedder_config": {"target": "torch.nn.Linear", "params": {"in_features": TEXT, "out_features": 64}},
        "num_patches": 64, "pos_embed_max_size": 8, "pos_embed_scaling_factor": None, "qk_norm": "rms"})
    # Places that a file brings.
    made.model.diffusion_model.pos_embed.normal_(generator=torch.Generator().manual_seed(9))
    return made
