"""A host's video transformers of full size in fake tensors: a training step's memory against what is told before."""

from __future__ import annotations

from dataclasses import replace
from unittest.mock import patch

import comfy.clip_vision
import comfy.model_patcher
import comfy.supported_models
import torch
from steadyedit.backends.comfy_native import ComfyBackend, video
from steadyedit.benchmarks.common.live import fake
from steadyedit.benchmarks.full_size.step import RANK, Step, training_step
from steadyedit.benchmarks.lora_edit_host.run import settings_of
from steadyedit.benchmarks.lora_edit_size.run import MODELS
from steadyedit.methods.lora_edit.choices import HUNYUAN, HUNYUAN_15, WAN
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.lora_edit.samples import Sample
from steadyedit.methods.lora_edit.train import VideoSettings

BACKEND, CPU = ComfyBackend(), torch.device("cpu")
TEXT, LLAMA, VISION, QWEN, BYT5, SIGLIP = 512, 256, 257, 256, 128, 729


def hunyuan(double: int = 20, single: int = 40):
    """Settings of HunyuanVideo I2V."""
    return comfy.supported_models.HunyuanVideoI2V({
        "image_model": "hunyuan_video", "in_channels": 33, "patch_size": [1, 2, 2], "out_channels": 16,
        "vec_in_dim": 768, "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": 4096, "hidden_size": 3072,
        "mlp_ratio": 4.0, "num_heads": 24, "depth": double, "depth_single_blocks": single, "theta": 256,
        "qkv_bias": True, "byt5": False, "guidance_embed": True, "use_cond_type_embedding": False,
        "vision_in_dim": None, "meanflow_sum": False,
    })  # fmt: skip


def hunyuan15(double: int = 54):
    """Settings of HunyuanVideo 1.5, but for the table of kinds of tokens, which can not be moved in fake tensors."""
    return comfy.supported_models.HunyuanVideo15({
        "image_model": "hunyuan_video", "in_channels": 65, "patch_size": [1, 1, 1], "out_channels": 32,
        "vec_in_dim": None, "axes_dim": [16, 56, 56], "meanflow": False, "context_in_dim": 3584, "hidden_size": 2048,
        "mlp_ratio": 4.0, "num_heads": 16, "depth": double, "depth_single_blocks": 0, "theta": 256, "qkv_bias": True,
        "byt5": True, "guidance_embed": False, "use_cond_type_embedding": False, "vision_in_dim": 1152,
        "meanflow_sum": True,
    })  # fmt: skip


def sample(family: str, latent: tuple[int, ...], image: bool) -> Sample:
    """Random latents and tokens of the true shapes."""
    extra = {"concat_latent_image": torch.randn(latent),
             "concat_mask": torch.ones(1, 4 if family == WAN else 1, *latent[2:])}  # fmt: skip
    if family != WAN:
        extra["pooled_output"] = torch.randn(1, 768)
    if family == HUNYUAN_15:
        extra["conditioning_byt5small"], seen = torch.randn(1, BYT5, 1472), torch.randn(1, SIGLIP, 1152)
        extra["clip_vision_output"] = comfy.clip_vision.Output()
        for name in ("last_hidden_state", "penultimate_hidden_states"):
            extra["clip_vision_output"][name] = seen
    elif image:
        extra["clip_vision_output"] = comfy.clip_vision.Output()
        extra["clip_vision_output"]["penultimate_hidden_states"] = torch.randn(1, VISION, 1280)
    text = {HUNYUAN: (LLAMA, 4096), HUNYUAN_15: (QWEN, 3584)}.get(family, (TEXT, 4096))
    text = torch.randn(1, *text)
    return Sample(torch.randn(latent), [[text, extra]], 1, "full size", family)


def step(
    kind: str, size: str, dtype: torch.dtype, stored: torch.dtype | None = None, *,
    blocks: tuple[int, ...] | None = None, targets: str = "attention and feed-forward",
    settings: VideoSettings | None = None, noted: bool = False, whole: int = 0, offloaded: int = 0,
) -> Step:  # fmt: skip
    """A training step of "wan 14B", "plain 1.3B", "hunyuan" or "hunyuan 1.5" in fake tensors.

    Args:
        size: frames x width x height.
        dtype: what is computed with, as the device would choose it.
        stored: of the weights; ``dtype`` if None.
        blocks: fewer than the model has; HunyuanVideo's double and single ones.
        whole: blocks that are not computed again.
        offloaded: blocks whose inputs wait in the main memory.
    """
    family, _, name = kind.partition(" ")
    frames, width, height = map(int, size.split("x"))
    newer, image = kind == "hunyuan 1.5", family == "wan"
    channels, cell = (32, 16) if newer else (16, 8)
    latent = 1, channels, (frames - 1) // 4 + 1, height // cell, width // cell
    # The weights lie there; a fake model cannot be moved.
    with (fake(), patch.object(video, "training_dtype", lambda device: dtype),
          patch.object(video, "load", lambda *args: None)):  # fmt: skip
        build = hunyuan15 if newer else hunyuan
        if family == "hunyuan":
            made = build(*blocks or ())
        else:
            made = settings_of(replace(MODELS[name], blocks=blocks[0]) if blocks else MODELS[name], image)
        made.set_inference_dtype(stored or dtype, dtype if stored not in (None, dtype) else None)
        base = made.get_model({}, "", device=CPU)
        model = comfy.model_patcher.ModelPatcher(base, CPU, CPU)
        found = sample({"hunyuan": HUNYUAN, "hunyuan 1.5": HUNYUAN_15}.get(kind, WAN), latent, image)
        return training_step(
            BACKEND, model, [found], recipe=MaskLoRARecipe(rank=RANK, targets=targets), settings=settings,
            noted=noted, whole=whole, offloaded=offloaded, weights=[*base.parameters(), *base.buffers()],
        )  # fmt: skip
