"""The toy world's image-to-video model as the host's stock Wan MODEL, CLIP and VAE."""

from __future__ import annotations

from functools import partial
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

from ...toyworld import models as toyworld
from ...toyworld.models import wan
from . import toy


def network_config() -> dict[str, Any]:
    """The host's description of the toy transformer, from diffusers' one.

    `model_type` says whether there is a branch for CLIP vision; there is none, as in Wan 2.2's I2V models.
    """
    source = wan.CONFIG
    heads = source["num_attention_heads"]
    return {
        "image_model": "wan2.1", "model_type": "t2v", "dim": heads * source["attention_head_dim"], "num_heads": heads,
        "ffn_dim": source["ffn_dim"], "num_layers": source["num_layers"], "in_dim": source["in_channels"],
        "out_dim": source["out_channels"], "text_dim": source["text_dim"], "freq_dim": source["freq_dim"],
        "patch_size": source["patch_size"], "window_size": (-1, -1), "qk_norm": True,
        "cross_attn_norm": source["cross_attn_norm"], "eps": source["eps"],
    }


def model_from(state: dict[str, torch.Tensor], disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL from a toy transformer's tensors by Wan's names."""
    settings = comfy.supported_models.WAN21_I2V(network_config())
    settings.sampling_settings = {"shift": wan.SHIFT}
    settings.set_inference_dtype(torch.float32, None)
    load_device = comfy.model_management.get_torch_device()
    offload_device = comfy.model_management.unet_offload_device()
    base = settings.get_model({}, "", device=offload_device)
    toy.own_colours(base.latent_format, "wan_vae")
    # Not by load_model_weights, which only warns where a key is missing.
    base.diffusion_model.load_state_dict({key: weight.float() for key, weight in state.items()}, strict=True)
    patcher = comfy.model_patcher.ModelPatcher
    kind = patcher if disable_dynamic else getattr(comfy.model_patcher, "CoreModelPatcher", patcher)
    return kind(base, load_device, offload_device)


def load_model(disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    """MODEL of the trained toy transformer; the host calls this again for a copy of its own."""
    model = model_from(toyworld.state_of("wan"), disable_dynamic)
    model.cached_patcher_init = (partial(load_model), ())
    return model


def vae_from(state: dict[str, torch.Tensor]) -> comfy.sd.VAE:
    """VAE from a toy video autoencoder's tensors by Wan's names; the host finds its width by itself."""
    return comfy.sd.VAE(sd={key: weight.float() for key, weight in state.items()}, dtype=torch.float32)


def load() -> tuple[comfy.model_patcher.ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the toy world's image-to-video model.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
    """
    return load_model(), toy.clip_from(toyworld.state_of("text_encoder")), vae_from(toyworld.state_of("wan_vae"))
