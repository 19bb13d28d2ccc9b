"""What a training of a LoRA on a video transformer holds at its worst moment, told before it begins.

Blocks keep their input alone and are computed again in backward. The worst moment is the start of the last
block's backward: the inputs of all blocks lie beside everything that one block keeps, and the gradients that
pass through its feed-forward. Attention keeps no matrix of scores.
"""

from __future__ import annotations

from dataclasses import dataclass

#: Of a trained value: itself and AdamW's two moments, float32; and its gradient.
OPTIMIZER_BYTES, GRADIENT_BYTES = 12, 4
GIB = 2**30
#: Share of the device's memory that the driver, fragments and the host itself may take.
SPARE = 0.05


@dataclass(frozen=True)
class Moment:
    """What is held at one moment of backward, in vectors a token.

    Args:
        inputs: blocks whose inputs are still kept.
        wide: vectors of the model's width, as it is computed with.
        inner: vectors of the feed-forward's width.
        floats: vectors of the model's width in float32, in which norms are computed.
        trained: vectors of the LoRA's rank.
    """

    inputs: int
    wide: float
    inner: float = 0.0
    floats: float = 0.0
    trained: float = 10.0


def wan_moments(blocks: int, image: bool) -> tuple[Moment, ...]:
    """The backward of Wan's last block, with CLIP vision's tokens beside the text or without.

    Self-attention keeps its input, queries and keys before their norm and after the rotation, values, output (7);
    cross-attention its input before and after the norm, queries before and after theirs, output (5; with an image two
    outputs and their sum, 7); the feed-forward its input before and after the norm (2), and two of its own width. The
    first moment is the feed-forward's backward, with gradients beside them, the second a norm's.
    """
    more = 2 if image else 0
    return Moment(blocks, wide=15.5 + more, inner=4), Moment(blocks, wide=12 + more, floats=7)


def hunyuan_moments(double: int, single: int) -> tuple[Moment, ...]:
    """The feed-forward's backward in the last single and in the last double block of HunyuanVideo."""
    return Moment(double + single, wide=13.5, inner=4), Moment(double, wide=16, inner=4)


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
    """

    activations: int
    optimizer: int
    casts: int
    weights: int
    kept_weights: int | None = None

    @property
    def beside_weights(self) -> int:
        return self.activations + self.optimizer + self.casts

    @property
    def needed(self) -> int:
        """The least that must be free."""
        return self.beside_weights + (self.kept_weights or 0)


def plan(size: NetworkSize, latent: tuple[int, ...], rank: int, trained: int, blocks_kept: int = -1) -> MemoryPlan:
    """Memory of training on one latent.

    Args:
        size: of the network.
        latent: shape of the largest sample, [1, channels, T', h, w].
        rank: of the LoRA.
        trained: values of the LoRA.
        blocks_kept: blocks that stay on the device; -1 leaves it to the host.
    """
    tokens, vector = size.tokens(latent), size.width * size.itemsize

    def at(moment: Moment) -> float:
        vectors = (moment.inputs + moment.wide) * size.width + moment.inner * size.inner + moment.trained * rank
        # Rotary embeddings are float32, two rotations a pair of channels of a head.
        return vectors * size.itemsize + 4 * (moment.floats * size.width + 2 * size.head)

    worst = tokens * max(map(at, size.moments))
    # Gradients grow from the last block to the first, while the blocks' inputs go: the worse end counts.
    gradients = GRADIENT_BYTES * trained - tokens * vector * (size.blocks - 1)
    activations = worst + max(gradients, 0) + 4 * size.context_tokens * vector
    # A weight that is stored as it is computed with is used as it lies; else it, and a LoRA's, are cast for every use.
    casts = 2 * size.largest_layer * size.itemsize if size.stored_itemsize != size.itemsize else 0
    casts += trained // max(size.blocks, 1) * size.itemsize if size.itemsize < 4 else 0
    rest = size.weights - size.blocks * size.block_weights
    kept = None if blocks_kept < 0 else max(rest, 0) + min(blocks_kept, size.blocks) * size.block_weights
    return MemoryPlan(int(activations), OPTIMIZER_BYTES * trained, casts, size.weights, kept)


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
        f"samples: training on {frames} frames of {latent[4] * 8}x{latent[3] * 8} needs {planned.needed / GIB:.1f} GiB "
        f"({planned.activations / GIB:.1f} for activations, {(planned.needed - planned.activations) / GIB:.1f} for the "
        f"rest), but {device} has {free / GIB:.1f} GiB; {', or '.join(advice)}."
    )
