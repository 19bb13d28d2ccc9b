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
    """A transformer block, the transformer around it, and its two names."""

    site: BlockSite
    diffusers_path: str
    transformer: nn.Module
    block: nn.Module


def _named_layers(unet: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(LDM path, diffusers path, residual block or transformer) in the order of the forward pass."""
    index = 1
    for i, down in enumerate(unet.down_blocks):
        yield from _pairs(down, "input_blocks", index, f"down_blocks.{i}")
        index += len(down.resnets) + 1
    for j, resnet in enumerate(unet.mid_block.resnets):
        yield f"middle_block.{2 * j}", f"mid_block.resnets.{j}", resnet
        # One transformer between each two residual blocks.
        for transformer in getattr(unet.mid_block, "attentions", ())[j : j + 1]:
            yield f"middle_block.{2 * j + 1}", f"mid_block.attentions.{j}", transformer
    index = 0
    for i, up in enumerate(unet.up_blocks):
        yield from _pairs(up, "output_blocks", index, f"up_blocks.{i}")
        index += len(up.resnets)


def _pairs(block: nn.Module, part: str, first: int, path: str) -> Iterator[tuple[str, str, nn.Module]]:
    attentions = getattr(block, "attentions", None)
    for j, resnet in enumerate(block.resnets):
        yield f"{part}.{first + j}.0", f"{path}.resnets.{j}", resnet
        if attentions:
            yield f"{part}.{first + j}.1", f"{path}.attentions.{j}", attentions[j]


def layers(unet: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(LDM path, residual block or transformer) of a ``UNet2DConditionModel``, in the order of the forward pass."""
    return ((ldm, module) for ldm, _, module in _named_layers(unet))


def locate(unet: nn.Module) -> list[LocatedBlock]:
    """All transformer blocks of a ``UNet2DConditionModel`` in the order of the forward pass.

    Raises:
        TypeError: the module is no U-Net of Stable Diffusion's kind.
    """
    parts = ("down_blocks", "mid_block", "up_blocks")
    if not all(hasattr(unet, part) for part in parts):
        raise TypeError(f"model: expected a Stable Diffusion U-Net, but got {type(unet).__name__}.")
    found = []
    for ldm, diffusers, layer in _named_layers(unet):
        for k, block in enumerate(getattr(layer, "transformer_blocks", ())):
            suffix = f".transformer_blocks.{k}"
            site = BlockSite(ldm + suffix, block.attn1.to_q.in_features, block.attn1.heads)
            found.append(LocatedBlock(site, diffusers + suffix, layer, block))
    if not found:
        raise TypeError(f"model: the {type(unet).__name__} has no transformer blocks to attach to.")
    return found
