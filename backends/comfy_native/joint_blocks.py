"""Diffusion transformers whose text, picture and references attend to each other: where their tokens are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy.ldm.flux.model import Flux
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.qwen_image.model import QwenImageTransformer2DModel

from ...methods.attachment import BlockSite
from ...methods.via.joint_attention import TokenLayout

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

#: Classes that are read; one made from them may lay its tokens out in another way.
NETWORKS = (Flux, QwenImageTransformer2DModel)


def joint_network_of(model: Any) -> nn.Module | None:
    """FLUX's or Qwen-Image's transformer inside a MODEL; None for other networks."""
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    return network if type(network) in NETWORKS else None


def joint_sites_of(model: Any) -> list[BlockSite]:
    """``BlockSite`` of every block of joint attention, in order: ``double_blocks.0``, ``single_blocks.0``; none where
    the MODEL is a U-Net.

    Raises:
        TypeError: it is neither (one sentence).
    """
    network: Any = joint_network_of(model)
    if network is None:
        other = getattr(getattr(model, "model", None), "diffusion_model", None)
        if isinstance(other, UNetModel):
            return []
        raise TypeError("model: this needs a U-Net of Stable Diffusion 1.x, 2.x or SDXL, FLUX or Qwen-Image, but got a "
                        f"{type(model if other is None else other).__name__}, whose attention it can not reach; load "
                        "one of those.")
    if isinstance(network, QwenImageTransformer2DModel):
        counts, heads = {"double": len(network.transformer_blocks)}, network.transformer_blocks[0].attn.heads
        width = network.inner_dim
    else:
        counts = {"double": len(network.double_blocks), "single": len(network.single_blocks)}
        heads, width = network.num_heads, network.hidden_size
    return [BlockSite(site_of(kind, i), width, heads) for kind, count in counts.items() for i in range(count)]


def site_of(block_type: str, index: int) -> str:
    """The name of a block by what the host says of it in its transformer options."""
    return f"{block_type}_blocks.{index}"


def layout_of(network: Any, given: Mapping[str, Any]) -> TokenLayout:
    """Tokens of one call, in their order: text, picture, references.

    Args:
        network: one of ``NETWORKS``.
        given: arguments of its forward by name.
    """
    references = sum(tokens_of(picture, network.patch_size) for picture in given.get("ref_latents") or ())
    return TokenLayout(given["context"].shape[1], tokens_of(given["x"], network.patch_size), references)


def tokens_of(latent: Tensor, patch: int) -> int:
    """Tokens of a latent [rows, channels, (frames,) height, width], which the host pads to whole patches."""
    *frames, height, width = latent.shape[2:]
    return (frames[0] if frames else 1) * -(-height // patch) * -(-width // patch)
