"""Small random video transformers in the host, and samples to train them on."""

from __future__ import annotations

import comfy.clip_vision
import comfy.model_patcher
import comfy.supported_models
import torch
from shared import shared
from steadyedit.backends.comfy_native import ComfyBackend
from steadyedit.methods.lora_edit.choices import HUNYUAN, HUNYUAN_15, WAN
from steadyedit.methods.lora_edit.samples import Sample

BACKEND = ComfyBackend()
TEXT, VISION, SIGLIP, BYT5 = 32, 1280, 1152, 1472
CPU = torch.device("cpu")


def filled(base, seed: int):
    """Random weights at which the network does something; norms near 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, value in base.diffusion_model.state_dict().items():
        near = 1.0 if "norm" in key and key.endswith((".weight", ".scale")) else 0.0
        state[key] = near + torch.randn(value.shape, generator=generator) * (0.06 if value.ndim > 1 else 0.02)
    base.diffusion_model.load_state_dict(state)
    return comfy.model_patcher.ModelPatcher(base, CPU, CPU)


def wan_base(dim=64, ffn=96, layers=2, image=True, in_dim=36, heads=2, text=TEXT, freq=32):
    config = {
        "image_model": "wan2.1", "model_type": "i2v" if image else "t2v", "in_dim": in_dim, "dim": dim, "ffn_dim": ffn,
        "num_heads": heads, "num_layers": layers, "text_dim": text, "freq_dim": freq, "out_dim": 16,
        "patch_size": (1, 2, 2), "qk_norm": True, "cross_attn_norm": True, "window_size": (-1, -1), "eps": 1e-6,
    }  # fmt: skip
    settings = comfy.supported_models.WAN21_I2V(config)
    settings.set_inference_dtype(torch.float32, None)
    return settings.get_model({}, "", device=CPU)


def _hunyuan(kind, hidden, **parts):
    config = {
        "image_model": "hunyuan_video", "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": TEXT,
        "hidden_size": hidden, "num_heads": hidden // 128, "theta": 256, "qkv_bias": True, **parts,
    }  # fmt: skip
    settings = kind(config)
    settings.set_inference_dtype(torch.float32, None)
    return settings.get_model({}, "", device=CPU)


def hunyuan_base(kind=comfy.supported_models.HunyuanVideoI2V, channels=33, hidden=128, double=1, single=1):
    return _hunyuan(kind, hidden, in_channels=channels, patch_size=[1, 2, 2], out_channels=16, vec_in_dim=768,
                    mlp_ratio=2.0, depth=double, depth_single_blocks=single, byt5=False, guidance_embed=True,
                    use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False)  # fmt: skip


def hunyuan15_base(kind=comfy.supported_models.HunyuanVideo15, channels=65, hidden=128, double=2, vision=SIGLIP):
    """Double blocks alone, a cell to a token; text by two encoders and CLIP vision's tokens run along."""
    return _hunyuan(kind, hidden, in_channels=channels, patch_size=[1, 1, 1], out_channels=32, vec_in_dim=None,
                    mlp_ratio=4.0, depth=double, depth_single_blocks=0, byt5=True, guidance_embed=False,
                    use_cond_type_embedding=True, vision_in_dim=vision, meanflow_sum=True)  # fmt: skip


@shared
def _shared(kind: str):
    base = {"wan": wan_base, "plain": lambda: wan_base(image=False), "hunyuan": hunyuan_base,
            "hunyuan 1.5": hunyuan15_base}[kind]()  # fmt: skip
    return filled(base, seed=4)


def model(kind: str = "wan"):
    """A clone of one shared MODEL: "wan" with CLIP vision, "plain" without, "hunyuan", "hunyuan 1.5"."""
    return _shared(kind).clone()


def sample(kind: str = "wan", frames: int = 2, height: int = 6, width: int = 4, seed: int = 3, repeats: int = 1,
           text: int = TEXT):  # fmt: skip
    """A training sample of latents."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator)

    channels, latent = 1 if "hunyuan" in kind else 4, 32 if kind == "hunyuan 1.5" else 16
    extra = {
        "concat_latent_image": random(1, latent, frames, height, width),
        "concat_mask": (random(1, channels, frames, height, width) > 0).float(),
    }
    if "hunyuan" in kind:
        extra["pooled_output"] = random(1, 768)
    if kind == "wan":
        extra["clip_vision_output"] = comfy.clip_vision.Output()
        extra["clip_vision_output"]["penultimate_hidden_states"] = random(1, 5, VISION)
    if kind == "hunyuan 1.5":
        extra["conditioning_byt5small"] = random(1, 3, BYT5)
        extra["clip_vision_output"] = comfy.clip_vision.Output()
        seen = random(1, 5, SIGLIP)
        for name in ("last_hidden_state", "penultimate_hidden_states"):
            extra["clip_vision_output"][name] = seen
    family = {"hunyuan": HUNYUAN, "hunyuan 1.5": HUNYUAN_15}.get(kind, WAN)
    clean = random(1, latent, frames, height, width)
    return Sample(clean, [[random(1, 7, text), extra]], repeats, f"seed {seed}", family)
