"""Text encoders and VAEs of the host's instruction editors, narrow and with random weights."""

from __future__ import annotations

import zlib
from functools import partial
from unittest import mock

import comfy.controlnet
import comfy.latent_formats
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models_base
import comfy.text_encoders.qwen_image as qwen_image
import comfy.text_encoders.qwen_vl as qwen_vl
import torch
from comfy import sd1_clip
from comfy.ldm.flux.controlnet import ControlNetFlux
from comfy.ldm.qwen_image.controlnet import QwenImageControlNetModel
from comfy_extras.nodes_model_patch import QwenImageBlockWiseControlNet
from narrow_flow import TEXT
from shared import shared
from steadyedit.standalone.rehearsal import layout_vae
from steadyedit.standalone.rehearsal.weights import filled

LLAMA = {"hidden_size": TEXT, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
         "num_key_value_heads": 1}  # fmt: skip


class NarrowQwenText(sd1_clip.SDClipModel):
    """``Qwen25_7BVLIModel`` in another size."""

    def __init__(self, device="cpu", layer="last", layer_idx=None, dtype=None, attention_mask=True, model_options=None):
        super().__init__(device=device, layer=layer, layer_idx=layer_idx, textmodel_json_config=dict(LLAMA),
                         dtype=dtype, special_tokens={"pad": 151643}, layer_norm_hidden_state=False,
                         model_class=comfy.text_encoders.llama.Qwen25_7BVLI, enable_attention_masks=attention_mask,
                         return_attention_masks=attention_mask, model_options=model_options or {})


@shared
def qwen_clip():
    """CLIP of Qwen-Image: the host's tokenizer, language model and vision transformer."""
    vision = partial(qwen_vl.Qwen2VLVisionTransformer)

    def narrow(hidden_size, output_hidden_size, **rest):
        return vision(hidden_size=32, output_hidden_size=output_hidden_size, intermediate_size=32, num_heads=2,
                      num_layers=1, **rest)

    with mock.patch.object(qwen_image, "Qwen25_7BVLIModel", NarrowQwenText), \
            mock.patch.object(qwen_vl, "Qwen2VLVisionTransformer", narrow):
        target = comfy.supported_models_base.ClipTarget(qwen_image.QwenImageTokenizer, qwen_image.te())
        clip = comfy.sd.CLIP(target, model_options={"dtype": torch.float32})
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in clip.cond_stage_model.named_parameters():
            middle = 1.0 if "norm" in name else 0.0
            parameter.copy_(middle + 0.2 * torch.randn(parameter.shape, generator=generator))
    return clip


class FluxText:
    """What a FLUX text encoder gives: each text its own tokens and summary."""

    encoders = ("l", "t5xxl")

    def tokenize(self, text, **_):
        return dict.fromkeys(self.encoders, text)

    def encode_from_tokens_scheduled(self, tokens, **_):
        generator = torch.Generator().manual_seed(zlib.crc32(tokens[self.encoders[0]].encode()))
        words, summary = (torch.randn(1, *size, generator=generator) for size in ((6, TEXT), (16,)))
        return [[words, {"pooled_output": summary}]]


class Flux2Text(FluxText):
    encoders = ("qwen3_4b",)


@shared
def vae(video):
    """One of Qwen-Image's kind, or of FLUX's, which has the same channels."""
    layout = layout_vae.wan() if video else layout_vae.kl(16)
    made = comfy.sd.VAE(sd=filled(layout, torch.float32), dtype=torch.float32)
    made.throw_exception_if_invalid()
    return made


def control_of(network, latent_format, extra_conds=()):
    """A ControlNet of the host's around a network, its weights drawn so that it shows."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator))
    return comfy.controlnet.ControlNet(network, compression_ratio=1, latent_format=latent_format,
                                       load_device=torch.device("cpu"), extra_conds=list(extra_conds))


def qwen_control():
    """A ControlNet of Qwen-Image (InstantX's kind) for the narrow network."""
    return control_of(QwenImageControlNetModel(
        extra_condition_channels=0, in_channels=64, num_layers=1, attention_head_dim=24, num_attention_heads=2,
        joint_attention_dim=TEXT, axes_dims_rope=(4, 10, 10), dtype=torch.float32, device="cpu",
        operations=comfy.ops.disable_weight_init), comfy.latent_formats.Wan21())  # fmt: skip


def flux_control():
    """A ControlNet of FLUX.1 (InstantX's kind) for the narrow network."""
    return control_of(ControlNetFlux(
        latent_input=True, in_channels=16, out_channels=16, vec_in_dim=16, context_in_dim=TEXT, hidden_size=48,
        mlp_ratio=2.0, num_heads=2, depth=1, depth_single_blocks=1, axes_dim=[4, 10, 10], theta=10000, patch_size=2,
        qkv_bias=True, guidance_embed=True, txt_ids_dims=[], dtype=torch.float32, device="cpu",
        operations=comfy.ops.disable_weight_init), comfy.latent_formats.Flux(), ("y", "guidance"))  # fmt: skip


def diffsynth():
    """MODEL_PATCH of a DiffSynth ControlNet for the narrow Qwen-Image."""
    network = QwenImageBlockWiseControlNet(num_layers=2, dim=48, device="cpu", dtype=torch.float32,
                                           operations=comfy.ops.disable_weight_init)  # fmt: skip
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.12 * torch.randn(parameter.shape, generator=generator))
    return comfy.model_patcher.ModelPatcher(network, torch.device("cpu"), torch.device("cpu"))
