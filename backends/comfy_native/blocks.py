"""Where the transformer blocks of the host's U-Net are, and by which keys the host patches them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from comfy.ldm.modules.attention import BasicTransformerBlock
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

from ...methods.attachment import BlockSite

if TYPE_CHECKING:
    from torch import nn

PARTS = ("input_blocks", "middle_block", "output_blocks")

#: The host's names for self- and cross-attention.
ATTENTIONS = {"self": "attn1", "cross": "attn2"}


def unet_of(model: Any) -> UNetModel:
    """The U-Net inside a MODEL.

    Raises:
        TypeError: the MODEL holds another kind of network.
    """
    network = getattr(getattr(model, "model", None), "diffusion_model", None)
    if not isinstance(network, UNetModel):
        kind = type(network).__name__ if network is not None else type(model).__name__
        raise TypeError(f"model: this needs a U-Net of Stable Diffusion 1.x, 2.x or SDXL, but got a {kind}; "
                        "load such a checkpoint.")
    return network


def located(unet: nn.Module) -> Iterator[tuple[BlockSite, nn.Module]]:
    """Every transformer block over space, in the order of the forward pass."""
    for part in PARTS:
        for name, module in getattr(unet, part).named_modules():
            if isinstance(module, BasicTransformerBlock) and "transformer_blocks" in name:
                site = BlockSite(f"{part}.{name}", module.attn1.to_q.in_features, module.n_heads)
                yield site, module


def sites_of(model: Any) -> list[BlockSite]:
    """``BlockSite`` of every transformer block, in the order of the forward pass.

    Raises:
        TypeError: the MODEL is no U-Net, or a U-Net without transformer blocks.
    """
    sites = [site for site, _ in located(unet_of(model))]
    if not sites:
        raise TypeError("model: this U-Net has no transformer blocks to attach to; load a Stable Diffusion checkpoint.")
    return sites


def replace_key(path: str) -> tuple[str, int, int]:
    """The host's key of a block in ``patches_replace``: (part, block number, index in its transformer).

    ``input_blocks.4.1.transformer_blocks.0`` -> ``("input", 4, 0)``.
    """
    words = path.split(".")
    part = words[0].split("_", 1)[0]
    # The host counts the middle as one block, whatever the position of the transformer in it.
    number = 0 if part == "middle" else int(words[1])
    return part, number, int(words[-1])


def refuse_second_owner(replaced: Mapping[str, Any], kind: str, paths: Iterable[str], method: str) -> None:
    """Check that nobody replaces an attention that a method replaces.

    Args:
        replaced: the host's ``patches_replace``.
        kind: "self" or "cross".
        paths: blocks that the method touches.
        method: its name.

    Raises:
        ValueError: another node replaces the same attention of one of the blocks.
    """
    taken = replaced.get(ATTENTIONS[kind], {})
    for path in sorted(paths) if taken else ():
        key = replace_key(path)
        if key in taken or key[:2] in taken:
            raise ValueError(f"model: another node already replaces the {kind}-attention of {path}, which "
                             f"{method} needs; remove one of the two.")
