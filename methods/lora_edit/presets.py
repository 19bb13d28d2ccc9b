"""Cards of 8, 12, 16 and 24 GB: what of a training of a LoRA lies where, so that it fits."""

from __future__ import annotations

from dataclasses import replace

from .memory import GIB, SPARE, MemoryPlan, NetworkSize, check, plan, widened

#: Blocks that lie on the device while streamed ones are on their way: the one at work and the next.
ON_THEIR_WAY = 2


def fitted(
    size: NetworkSize, latent: tuple[int, ...], rank: int, trained: int, budget: int, free: int, device: str
) -> MemoryPlan:
    """The plan that moves least to and from the main memory and fits into a card of ``budget`` bytes.

    Weights are streamed first, since any block of them may go; then the inputs of the first blocks wait in the main
    memory, as few as will do. Feed-forwards go in parts in every plan; blocks are computed again but for the last ones,
    as many as there is room for where nothing is streamed or moved.

    Args:
        free: bytes that the device can give; a card that has less counts for what it has.
        device: its name, for the message.

    Raises:
        MemoryError: nothing fits; one sentence with the numbers and what to change.
    """
    given = min(budget, free)
    room = int(given * (1 - SPARE))
    stream = ON_THEIR_WAY * size.block_weights
    rest = max(size.weights - size.blocks * size.block_weights, 0)
    for offloaded in range(size.blocks):
        found = plan(size, latent, rank, trained, -1, offloaded)
        left = room - found.beside_weights
        if left >= size.weights:
            return widened(replace(found, kept_weights=size.weights), size, latent, rank, trained, given)
        if left >= rest + stream:
            return plan(size, latent, rank, trained, int((left - rest - stream) // size.block_weights), offloaded)
    least = plan(size, latent, rank, trained, -1, size.blocks - 1)
    named = device if free <= budget else f"the preset of {budget / GIB:.0f} GB"
    check(replace(least, kept_weights=rest + stream), size, latent, given, named)
    return least


def in_words(chosen: MemoryPlan, size: NetworkSize, budget: int) -> str:
    """What a preset chose, for the progress bar: "12 GB preset (provisional): ..."."""
    parts = []
    if chosen.kept_weights is not None and chosen.kept_weights < size.weights:
        rest = max(size.weights - size.blocks * size.block_weights, 0)
        parts.append(f"{(chosen.kept_weights - rest) // size.block_weights} of {size.blocks} blocks on the GPU, the "
                     "others streamed")  # fmt: skip
    else:
        parts.append("all blocks on the GPU")
    if chosen.offloaded:
        parts.append(f"inputs of {chosen.offloaded} blocks in the main memory")
    if chosen.whole:
        parts.append(f"{chosen.whole} of {size.blocks} blocks not computed again")
    return (f"{budget / GIB:.0f} GB preset (provisional, not yet confirmed on a GPU): {', '.join(parts)}, "
            f"{chosen.beside_weights / GIB:.1f} GB beside the weights")  # fmt: skip
