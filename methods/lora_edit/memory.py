"""What a training of a LoRA on a video transformer holds at its worst moment, told before it begins.

Blocks keep their input alone and are computed again in backward, but for the last ones where there is room for what
they keep. The worst moment is the start of the last block's backward: the inputs of all blocks lie beside everything
that one block keeps, and the gradients that pass through its feed-forward. Attention keeps no matrix of scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

#: Of a trained value: itself and AdamW's two moments, float32; and its gradient.
OPTIMIZER_BYTES, GRADIENT_BYTES = 12, 4
GIB = 2**30
#: Share of the device's memory that the driver, fragments and the host itself may take.
SPARE = 0.05
#: Float32 latents that lie there: x_0, noise, what is noisy, target, mask and condition, what goes in and comes out.
LATENTS_KEPT = 7
#: Tokens that a feed-forward takes at once, so that its inner width never lies there whole.
FEED_FORWARD_TOKENS = 2048


@dataclass(frozen=True)
class Moment:
    """What is held at one moment of backward, in vectors a token.

    Args:
        inputs: blocks whose inputs are still kept, this one's among them.
        wide: vectors of the model's width, as it is computed with.
        inner: vectors of the feed-forward's width.
        part: vectors of the feed-forward's width of the tokens that it takes at once.
        floats: vectors of the model's width in float32, whatever is computed with.
        trained: vectors of the LoRA's rank.
        casts: weights as large as the largest that lie there as they are computed with.
        copied: of ``wide``, what a block that is computed again holds of copies of its input.
    """

    inputs: int
    wide: float
    inner: float = 0.0
    part: float = 0.0
    floats: float = 0.0
    trained: float = 1.0
    casts: float = 1.0
    copied: float = 0.0


def wan_kept(image: bool) -> Moment:
    """What a block of ComfyUI's Wan keeps beside its input where it is not computed again: as in ``wan_moments``,
    without gradients, and the feed-forward's inner values."""
    return Moment(0, wide=14 + (2 if image else 0), inner=1)


def diffusers_wan_kept(itemsize: int, inner_trained: bool) -> Moment:
    """The same of diffusers' Wan, by fake runs: in half precision some of what it keeps is float32."""
    wide = 13.4 if itemsize == 4 else 19
    return Moment(0, wide=wide, inner=2) if inner_trained else Moment(0, wide=wide - 0.8, inner=1)


def hunyuan_kept(single: int) -> Moment:
    """The same of HunyuanVideo's single blocks; of its double blocks where there are no others."""
    return Moment(0, wide=8, inner=2) if single else Moment(0, wide=11, inner=1)


def wan_moments(blocks: int, image: bool) -> tuple[Moment, ...]:
    """The backward of the last block of ComfyUI's Wan, with CLIP vision's tokens beside the text or without.

    Self-attention keeps its input, queries and keys before their norm and after the rotation, values, output (7);
    cross-attention its input before and after the norm, queries before and after theirs, output (5; with an image two
    outputs and their sum, 7); the feed-forward its input before and after the norm (2), and beside them lie the
    gradient of the block's output, with and without its gate, and of the feed-forward's input (3).
    """
    return (Moment(blocks, wide=17 + (2 if image else 0), part=3, casts=2),)


def diffusers_wan_moments(blocks: int, itemsize: int, inner_trained: bool) -> tuple[Moment, ...]:
    """The backward of the last block of diffusers' Wan, whose norms and residual sums are computed in float32.

    In float32 that copies nothing; the feed-forward's backward is the worst then, with two gradients of its inner
    values and their sum. In half precision every norm and sum keeps its input in float32 besides; which of the two
    is the worst depends on the inner width. A feed-forward that is not trained keeps no inner values for its second
    product; the worst is its backward or the block's end, again by the inner width.
    """
    if not inner_trained and itemsize == 4:
        return Moment(blocks, wide=14, inner=3), Moment(blocks, wide=17, inner=2)
    if not inner_trained:
        return Moment(blocks, wide=9, floats=6, inner=3), Moment(blocks, wide=12, floats=9, inner=1)
    if itemsize == 4:
        return (Moment(blocks, wide=15, inner=4),)
    return Moment(blocks, wide=12, floats=9, inner=2), Moment(blocks, wide=22, inner=4)


def hunyuan_moments(double: int, single: int) -> tuple[Moment, ...]:
    """The backward of HunyuanVideo's last single block, at its second product, and of its last double block; 1.5 has
    double blocks alone.

    A single block keeps its input twice, what its first product gives (queries, keys, values and the feed-forward's
    inner values, 3 and an inner), the rotated queries and keys (2), the attention's output in two orders (2), the inner
    values after their function, and both joined (1 and an inner); gradients lie beside them.
    """
    if not single:
        # Nothing of the two streams joined, and its gradient, lies beside the last double block then.
        return (Moment(double, wide=15, part=3, casts=1.15, copied=0.9),)
    last = Moment(double + single, wide=13, inner=3, casts=0.72, copied=0.75)
    return last, Moment(double, wide=17, part=3, casts=1.15)


@dataclass(frozen=True)
class NetworkSize:
    """A video transformer's size.

    Args:
        width, inner, head: of a token, of the feed-forward and of an attention head.
        blocks: how many there are.
        moments: of backward; the worst counts.
        extra_tokens: text tokens that run through the blocks beside the video's.
        context_tokens: text tokens that blocks only look at; four vectors each.
        itemsize: bytes of a value that is computed with.
        weights: bytes of the network as it is stored.
        block_weights: bytes of its largest block as it is stored.
        largest_layer: values of its largest weight.
        patch: cells of latent to a token (frames, rows, columns).
        stored_itemsize: bytes of a weight as it is stored.
        conditioning: bytes of a sample's text and what else conditions it.
        cell: pixels to a side of a cell of latent.
        kept: what one of the last blocks keeps that is not computed again; None where all are.
        alike: how many blocks at the end are of the last one's kind.
    """

    width: int
    inner: int
    head: int
    blocks: int
    moments: tuple[Moment, ...]
    itemsize: int
    weights: int
    block_weights: int
    largest_layer: int
    extra_tokens: int = 0
    context_tokens: int = 0
    patch: tuple[int, int, int] = (1, 2, 2)
    stored_itemsize: int = 2
    conditioning: int = 0
    cell: int = 8
    kept: Moment | None = None
    alike: int = 0

    def tokens(self, latent: tuple[int, ...]) -> int:
        """Tokens of a latent [1, channels, T', h, w]."""
        count = 1
        for size, patch in zip(latent[2:], self.patch, strict=True):
            count *= -(-size // patch)
        return count + self.extra_tokens


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on the device that trains.

    Args:
        activations: kept inputs, the worst moment of a block, gradients.
        optimizer: the LoRA and AdamW's moments.
        casts: a layer's weight as it is computed with, while it is used.
        weights: the network as it is stored; may stay off the device but for what streams through.
        kept_weights: the part that was asked to stay on the device; None leaves it to the host.
        offloaded: blocks whose inputs wait in the main memory.
        whole: blocks at the end that keep what their backward needs and are not computed again.
    """

    activations: int
    optimizer: int
    casts: int
    weights: int
    kept_weights: int | None = None
    offloaded: int = 0
    whole: int = 0

    @property
    def beside_weights(self) -> int:
        return self.activations + self.optimizer + self.casts

    @property
    def needed(self) -> int:
        """The least that must be free."""
        return self.beside_weights + (self.kept_weights or 0)


def plan(size: NetworkSize, latent: tuple[int, ...], rank: int, trained: int, blocks_kept: int = -1,
         offloaded: int = 0, whole: int = 0) -> MemoryPlan:
    """Memory of training on one latent.

    Args:
        size: of the network.
        latent: shape of the largest sample, [1, channels, T', h, w].
        rank: of the LoRA.
        trained: values of the LoRA.
        blocks_kept: blocks that stay on the device; -1 leaves it to the host.
        offloaded: blocks whose inputs wait in the main memory.
        whole: blocks at the end that are not computed again; at most ``size.alike``.
    """
    tokens, vector = size.tokens(latent), size.width * size.itemsize
    # A weight that is stored as it is computed with is used as it lies; else it is cast for every use.
    cast = size.largest_layer * size.itemsize if size.stored_itemsize != size.itemsize else 0

    def vectors(moment: Moment) -> float:
        own = moment.wide * size.width + moment.inner * size.inner + moment.trained * rank
        return tokens * (own * size.itemsize + 4 * moment.floats * size.width)

    # The last block keeps all that it needs in any case, but for the inner values: backward begins with it.
    others = 0.0
    if size.kept is not None and whole:
        others = (whole - 1) * (vectors(size.kept) + 4 * size.context_tokens * vector)

    def at(moment: Moment) -> float:
        # Rotary embeddings are float32, two rotations a pair of channels of a head.
        inputs = tokens * (max(moment.inputs - offloaded, 1) * vector + 8 * size.head)
        part = min(tokens, FEED_FORWARD_TOKENS) * size.inner * size.itemsize
        if not whole or size.kept is None or moment.inputs != size.blocks:
            return vectors(moment) + inputs + part * moment.part
        # Inner values that lie there are not made anew, part by part.
        inner = max(size.kept.inner - moment.inner, 0)
        own = tokens * size.itemsize * (inner * size.inner - moment.copied * size.width)
        return vectors(moment) + inputs + part * max(moment.part - inner, 0) + own + others

    worst = max(size.moments, key=lambda moment: at(moment) + moment.casts * cast)
    # Gradients grow from the last block to the first, while the blocks' inputs go: the worse end counts.
    gradients = GRADIENT_BYTES * trained - tokens * vector * max(size.blocks - offloaded - 1, 0) - others
    outside = 4 * LATENTS_KEPT * math.prod(latent) + size.conditioning + 4 * size.context_tokens * vector
    activations = at(worst) + max(gradients, 0) + outside
    # A LoRA's matrices are float32, and cast for every use.
    casts = worst.casts * cast + (trained // max(size.blocks, 1) * size.itemsize if size.itemsize < 4 else 0)
    rest = size.weights - size.blocks * size.block_weights
    kept = None if blocks_kept < 0 else max(rest, 0) + min(blocks_kept, size.blocks) * size.block_weights
    return MemoryPlan(int(activations), OPTIMIZER_BYTES * trained, int(casts), size.weights, kept, offloaded, whole)


def widened(planned: MemoryPlan, size: NetworkSize, latent: tuple[int, ...], rank: int, trained: int,
            free: int) -> MemoryPlan:  # fmt: skip
    """The plan with as many blocks as fit not computed again, where all weights and inputs lie on the device already.

    Every one saves its second forward. None of the weights is streamed for it.

    Args:
        planned: fits without.
        free: bytes that the device can give.
    """
    room = int(free * (1 - SPARE)) - size.weights
    found = planned
    for whole in range(1, size.alike + 1 if size.kept is not None and not planned.offloaded else 1):
        wider = plan(size, latent, rank, trained, whole=whole)
        if wider.beside_weights > room:
            break
        found = replace(wider, kept_weights=planned.kept_weights)
    return found


def check(planned: MemoryPlan, size: NetworkSize, latent: tuple[int, ...], free: int, device: str) -> None:
    """Refuse a training that will not fit.

    Args:
        free: bytes that the device can give, with every other model off it.
        device: its name, for the message.

    Raises:
        MemoryError: one sentence with the numbers and what to change.
    """
    room = int(free * (1 - SPARE))
    if planned.needed <= room:
        return
    advice = []
    fixed = planned.needed - planned.activations
    spatial = size.tokens((1, 1, 1, *latent[3:])) - size.extra_tokens
    per_token = planned.activations / size.tokens(latent)
    fitting = int(((room - fixed) / per_token - size.extra_tokens) // spatial) if room > fixed else 0
    if 2 <= fitting < latent[2]:
        advice.append(f"cut the clip to {4 * (fitting - 1) + 1} frames or less (clip_length of Mask Sample)")
    advice.append("use a smaller size")
    if planned.kept_weights:
        advice.append("keep fewer blocks on the device")
    frames = 4 * (latent[2] - 1) + 1
    raise MemoryError(
        f"samples: training on {frames} frames of {latent[4] * size.cell}x{latent[3] * size.cell} needs "
        f"{planned.needed / GIB:.1f} GiB "
        f"({planned.activations / GIB:.1f} for activations, {(planned.needed - planned.activations) / GIB:.1f} for the "
        f"rest), but {device} has {free / GIB:.1f} GiB; {', or '.join(advice)}."
    )
