"""Names of transformer blocks: LDM checkpoints (what attachments use) against diffusers modules.

An LDM U-Net counts its layers in two flat lists: with L layers a block, down block i, layer j
is ``input_blocks.{1 + i (L + 1) + j}`` (the one more is the downsampler, the first is conv_in)
and up block i, layer j is ``output_blocks.{i (L + 1) + j}`` (an up block has L + 1 layers).
Entry 1 of each is the transformer.
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


def _transformers(unet: nn.Module) -> Iterator[tuple[str, str, nn.Module]]:
    """(LDM path, diffusers path, Transformer2DModel) in the order of the forward pass."""
    index = 1
    for i, down in enumerate(unet.down_blocks):
        for j in range(len(down.resnets)):
            if attentions := getattr(down, "attentions", None):
                yield f"input_blocks.{index}.1", f"down_blocks.{i}.attentions.{j}", attentions[j]
            index += 1
        index += 1
    for j, transformer in enumerate(getattr(unet.mid_block, "attentions", ())):
        yield f"middle_block.{2 * j + 1}", f"mid_block.attentions.{j}", transformer
    index = 0
    for i, up in enumerate(unet.up_blocks):
        for j in range(len(up.resnets)):
            if attentions := getattr(up, "attentions", None):
                yield f"output_blocks.{index}.1", f"up_blocks.{i}.attentions.{j}", attentions[j]
            index += 1


def locate(unet: nn.Module) -> list[LocatedBlock]:
    """All transformer blocks of a ``UNet2DConditionModel`` in the order of the forward pass.

    Raises:
        TypeError: the module is no U-Net of Stable Diffusion's kind.
    """
    parts = ("down_blocks", "mid_block", "up_blocks")
    if not all(hasattr(unet, part) for part in parts):
        raise TypeError(f"model: expected a Stable Diffusion U-Net, but got {type(unet).__name__}.")
    found = []
    for ldm, diffusers, transformer in _transformers(unet):
        for k, block in enumerate(getattr(transformer, "transformer_blocks", ())):
            suffix = f".transformer_blocks.{k}"
            site = BlockSite(ldm + suffix, block.attn1.to_q.in_features, block.attn1.heads)
            found.append(LocatedBlock(site, diffusers + suffix, transformer, block))
    if not found:
        raise TypeError(f"model: the {type(unet).__name__} has no transformer blocks to attach to.")
    return found
