"""The attention stages of a U-Net, numbered along its forward pass as in DAPE's figure 5."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..attachment import BlockSite


def stages(sites: Iterable[BlockSite]) -> list[list[BlockSite]]:
    """The transformer blocks by stage: those of one part of the U-Net and one size of feature map.

    With L residual layers a level, level i holds ``input_blocks`` 1 + i (L + 1) to L + i (L + 1),
    followed by the downsampler, and ``output_blocks`` i (L + 1) to L + i (L + 1). So L shows in
    how many transformers follow each other on the way down before the first gap.

    Stable Diffusion 1.5, numbered from 1: input_blocks 1-2 | 4-5 | 7-8 | middle_block |
    output_blocks 3-5 | 6-8 | 9-11. Number 5 is diffusers' ``up_blocks[1]``.
    """
    sites = list(sites)
    down = sorted({_index(site) for site in sites if site.stage == "input"})
    layers = next((n for n, index in enumerate(down) if index != down[0] + n), len(down)) or 1
    found: dict[tuple[str, int], list[BlockSite]] = {}
    for site in sites:
        offset = {"input": 1, "middle": _index(site), "output": 0}[site.stage]
        found.setdefault((site.stage, (_index(site) - offset) // (layers + 1)), []).append(site)
    return list(found.values())


def at_positions(sites: Iterable[BlockSite], positions: Sequence[int]) -> list[BlockSite]:
    """The blocks of some stages, counted from 1, in the order of the forward pass.

    Raises:
        ValueError: no position, or one that this U-Net has not.
    """
    found = stages(sites)
    strange = [position for position in positions if not 1 <= position <= len(found)]
    if strange or not positions:
        given = ", ".join(map(str, positions)) or "none"
        raise ValueError(f"positions: this U-Net has the attention stages 1 to {len(found)}, but got {given}.")
    return [site for number, stage in enumerate(found, 1) if number in positions for site in stage]


def _index(site: BlockSite) -> int:
    return int(site.path.split(".")[1])
