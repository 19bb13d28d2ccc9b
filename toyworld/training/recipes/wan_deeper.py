"""The image-to-video transformer's second stage: two more blocks on twice the clips, in no more bytes.

The first stage's loss on new clips is a tenth above that on its own. Its text attention needs few directions: matrices
of rank RANK carry it, and what that frees pays for the blocks. A new block stands behind another as its copy, with
zeros in the last layer of each branch, so that the network goes on from where it was.
"""

from __future__ import annotations

import copy

import torch
from torch import nn

from ...models import wan
from ...models.low_rank import LowRank
from ..loop import Run
from . import wan as first
from .wan import BLOCKS, BRISK, PLAIN

SEED = 54
RANK = 8
#: blocks that get a copy behind them
COPIED = (1, 3)


def thin_text(network) -> None:
    """Give the text attention's four matrices rank RANK."""
    for block in network.blocks:
        attention = block.attn2
        attention.to_q, attention.to_k, attention.to_v = (
            LowRank(layer, RANK) for layer in (attention.to_q, attention.to_k, attention.to_v))
        attention.to_out[0] = LowRank(attention.to_out[0], RANK)


@torch.no_grad()
def deepen(network) -> None:
    """A copy that adds nothing yet behind each of COPIED; `thin_text` comes first."""
    blocks = []
    for index, block in enumerate(network.blocks):
        blocks.append(block)
        if index in COPIED:
            block = copy.deepcopy(block)
            for layer in (block.attn1.to_out[0], block.attn2.to_out[0], block.ffn.net[2]):
                (layer.up if isinstance(layer, LowRank) else layer.weight).zero_()
                layer.bias.zero_()
            blocks.append(block)
    network.blocks = nn.ModuleList(blocks)


def build(before: dict[str, torch.Tensor] | None = None):
    """The network of this stage; begun from the weights of the one `before`, else only of the right shape."""
    network = wan.build(num_layers=BLOCKS)
    if before is not None:
        network.load_state_dict(before)
    thin_text(network)
    deepen(network)
    return network


def train(steps: int = 3600, batch: int = 8, peak: float = 1.2e-3, chunks: int = 120, compiled: bool = False) -> Run:
    """Train from the first stage's running average; the state stays in the cache, for the last stage."""
    before = first.train(compiled=compiled)
    torch.manual_seed(SEED)
    network = build(before.ema.average["wan"])
    run = Run("wan_deeper", {"wan": network}, steps, peak, SEED, ema=0.998, warmup=60, plain=PLAIN)
    return first.advance(run, BRISK, batch, chunks, chunks, compiled)
