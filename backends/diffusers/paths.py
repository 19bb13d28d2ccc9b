"""Names of transformer blocks: LDM checkpoints (what attachments use) against diffusers modules.

An LDM U-Net counts its layers in two flat lists: with L layers a block, down block i, layer j
is ``input_blocks.{1 + i (L + 1) + j}`` (the one more is the downsampler, the first is conv_in)
and up block i, layer j is ``output_blocks.{i (L + 1) + j}`` (an up block has L + 1 layers).
Entry 0 of each is the residual block, entry 1 the transformer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...methods.attachment import BlockSite

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LocatedBlock:
    """A transformer block, the transformer around it, and its name in LDM checkpoints."""

    site: BlockSite
    transformer: nn.Module
    block: nn.Module


def layers(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(LDM path, residual block or transformer) of a ``UNet2DConditionModel``, in the order of the forward pass."""
    index = 1
    for down in unet.down_blocks:
        yield from _pairs(down, "input_blocks", index)
        index += len(down.resnets) + 1
    for j, resnet in enumerate(unet.mid_block.resnets):
        yield f"middle_block.{2 * j}", resnet
        # One transformer between each two residual blocks.
        for transformer in getattr(unet.mid_block, "attentions", ())[j : j + 1]:
            yield f"middle_block.{2 * j + 1}", transformer
    index = 0
    for up in unet.up_blocks:
        yield from _pairs(up, "output_blocks", index)
        index += len(up.resnets)


def _pairs(block: nn.Module, part: str, first: int) -> Iterator[tuple[str, nn.Module]]:
    attentions = getattr(block, "attentions", None)
    for j, resnet in enumerate(block.resnets):
        yield f"{part}.{first + j}.0", resnet
        if attentions:
            yield f"{part}.{first + j}.1", attentions[j]


def locate(unet: nn.Module) -> list[LocatedBlock]:
    """All transformer blocks of a ``UNet2DConditionModel`` in the order of the forward pass.

    Raises:
        TypeError: the module is no U-Net of Stable Diffusion's kind.
    """
    parts = ("down_blocks", "mid_block", "up_blocks")
    if not all(hasattr(unet, part) for part in parts):
        raise TypeError(f"model: expected a Stable Diffusion U-Net, but got {type(unet).__name__}.")
    found = []
    for path, layer in layers(unet):
        for k, block in enumerate(getattr(layer, "transformer_blocks", ())):
            site = BlockSite(f"{path}.transformer_blocks.{k}", block.attn1.to_q.in_features, block.attn1.heads)
            found.append(LocatedBlock(site, layer, block))
    if not found:
        raise TypeError(f"model: the {type(unet).__name__} has no transformer blocks to attach to.")
    return found
