"""A mask carried through a clip by optical flow and put right in each frame by a segmenter, with its confidence.

For where no SAM 2 video model is loaded. From frame s to its neighbour t:

    moved = M_s warped along the flow from t to s
    M_t   = the segmenter's mask of moved's box, where it overlaps moved enough, else moved
    c_t   = (likeness of M_t's colours to the first mask's) min(1, |M_t| / expected area)

A mask whose confidence is too low is taken for hidden: M_t is empty, its place goes on as it moved
before, and the segmenter looks for it there until something of its colours appears.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .boxes import around
from .flow import estimate_flow, warp
from .segmentation.prompt import Prompt, Segmenter, segment_frame

#: Flow is estimated on frames of at most so many pixels a side: details cost time and help little.
FLOW_SIDE = 384
#: Below this confidence an object is hidden, above it, when it was, found again.
LOST = 0.35
#: Overlap (IoU) of the segmenter's mask with the moved one that it takes to be the same object.
SAME = 0.5
#: Histogram bins a colour channel.
BINS = 6


@dataclass
class Seen:
    """What is known of the object while it is followed in one direction."""

    mask: Tensor
    colours: Tensor
    area: float
    box: Tensor
    speed: Tensor
    hidden: bool = False


@torch.no_grad()
def track(frames: Tensor, masks: Mapping[int, Tensor], segmenter: Segmenter | None = None,
          progress: Callable[[int], None] | None = None) -> tuple[Tensor, Tensor]:
    """Follow one object from the given masks to all frames.

    Args:
        frames: IMAGE [n, height, width, 3] in 0..1.
        masks: [height, width] in 0..1 by the number of its frame; between two of them each frame
            belongs to the nearer one.
        segmenter: refines each frame's mask; None trusts the flow alone.
        progress: called with the number of frames done.

    Returns:
        masks [n, height, width] of 0 and 1, the given ones cut at 0.5, and a confidence [n] in 0..1.
    """
    out, sure = torch.zeros(frames.shape[:3]), torch.zeros(len(frames))
    done = 0
    for key, order in _spans(len(frames), sorted(masks)):
        mask = (masks[key] > 0.5).float().cpu()
        out[key], sure[key] = mask, float(mask.any())
        seen = _begun(frames[key], mask)
        before = key
        for number in order:
            if seen is not None:
                out[number], sure[number] = _step(frames, before, number, seen, segmenter)
            before = number
            done += 1
            if progress:
                progress(min(done, len(frames)))
    if progress:
        progress(len(frames))
    return out, sure


def _spans(count: int, keys: list[int]) -> Iterator[tuple[int, range]]:
    """(key frame, frames that it is carried to): forwards, then backwards, up to half-way to the next key."""
    for place, key in enumerate(keys):
        end = (key + keys[place + 1]) // 2 if place + 1 < len(keys) else count - 1
        start = (keys[place - 1] + key) // 2 + 1 if place else 0
        yield key, range(key + 1, end + 1)
        yield key, range(key - 1, start - 1, -1)


def _begun(frame: Tensor, mask: Tensor) -> Seen | None:
    """The start at a given mask; None where it is empty: then nothing is to be followed."""
    box = around(mask)
    if box is None:
        return None
    return Seen(mask, _histogram(frame, mask), mask.sum().item(), box, torch.zeros(2))


def _step(frames: Tensor, before: int, now: int, seen: Seen, segmenter: Segmenter | None) -> tuple[Tensor, float]:
    """The mask of frame ``now`` and its confidence; ``seen`` moves on."""
    moved = torch.zeros_like(seen.mask)
    if not seen.hidden:
        flow = _flow(frames[now], frames[before])
        moved = (warp(seen.mask[None, ..., None], flow[None])[0, ..., 0] > 0.5).float()
    mask = moved
    if segmenter is not None:
        box = around(moved) if moved.any() else _shifted(seen, frames.shape[1:3])
        if box is not None:
            mask = _put_right(segmenter, frames[now], box, moved, seen.hidden)
    sure = _confidence(frames[now], mask, seen)
    if sure < LOST:
        seen.hidden = True
        place = _shifted(seen, frames.shape[1:3])
        seen.box = seen.box if place is None else place
        return torch.zeros_like(mask), sure
    box = around(mask)
    if not seen.hidden:
        centre = lambda b: (b[:2] + b[2:]) / 2  # noqa: E731
        seen.speed = 0.5 * seen.speed + 0.5 * (centre(box) - centre(seen.box))
        # The size may change slowly; a sudden loss is an occlusion, not a new size.
        seen.area = max(0.98 * seen.area, 0.9 * seen.area + 0.1 * mask.sum().item())
    seen.mask, seen.box, seen.hidden = mask, box, False
    return mask, sure


def _put_right(segmenter: Segmenter, frame: Tensor, box: Tensor, moved: Tensor, hidden: bool) -> Tensor:
    """The segmenter's mask of the box, unless it is another thing than what moved there."""
    (features,) = segmenter.encode(frame[None])
    found = (segment_frame(segmenter, features, Prompt(boxes=_grown(box, frame)[None])).masks[0, 0] > 0).float().cpu()
    if hidden:
        return found
    both, either = (found * moved).sum(), torch.maximum(found, moved).sum().clamp(min=1)
    return found if both / either >= SAME else moved


def _grown(box: Tensor, frame: Tensor, share: float = 0.05) -> Tensor:
    """The box with a little more to each side, on the frame."""
    height, width = frame.shape[:2]
    more = (box[2:] - box[:2]) * share
    limit = torch.tensor([width, height], dtype=box.dtype)
    return torch.cat([(box[:2] - more).clamp(min=0), torch.minimum(box[2:] + more, limit)])


def _shifted(seen: Seen, size: tuple[int, int]) -> Tensor | None:
    """Where a hidden object would be by its last speed; None when it left the picture."""
    box = seen.box + seen.speed.repeat(2)
    inside = box[2] > 0 and box[3] > 0 and box[0] < size[1] and box[1] < size[0]
    return box if inside else None


def _confidence(frame: Tensor, mask: Tensor, seen: Seen) -> float:
    """Likeness of colours times the share of the expected area."""
    area = mask.sum().item()
    if not area:
        return 0.0
    likeness = torch.minimum(_histogram(frame, mask), seen.colours).sum().item()
    return likeness * min(1.0, area / seen.area)


def _histogram(frame: Tensor, mask: Tensor) -> Tensor:
    """Shares of the colours inside a mask, [BINS^3], smoothed along each channel so that light may change a little."""
    pixels = frame[..., :3].float().cpu()[mask > 0.5]
    bins = (pixels.clamp(0, 1) * BINS).long().clamp(max=BINS - 1)
    index = (bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]
    counts = torch.bincount(index, minlength=BINS**3).float().reshape(1, 1, BINS, BINS, BINS)
    kernel = torch.tensor([0.25, 0.5, 0.25])
    for axis in range(3):
        shape = [1, 1, 1, 1, 1]
        shape[2 + axis] = 3
        padding = [0, 0, 0]
        padding[axis] = 1
        counts = torch.nn.functional.conv3d(counts, kernel.reshape(shape), padding=padding)
    return (counts / counts.sum().clamp(min=1e-6)).flatten()


def _flow(source: Tensor, target: Tensor) -> Tensor:
    """[height, width, 2] from one frame to the other, estimated at a size that is quick."""
    pair = torch.stack([source, target])[..., :3].float().cpu()
    height, width = pair.shape[1:3]
    scale = min(1.0, FLOW_SIDE / max(height, width))
    if scale < 1:
        small = (max(8, round(height * scale)), max(8, round(width * scale)))
        pair = interpolate(pair.movedim(-1, 1), small, mode="bilinear", align_corners=False, antialias=True)
        pair = pair.movedim(1, -1)
    flow = estimate_flow(pair)[0]
    if scale < 1:
        ratio = torch.tensor([width / flow.shape[1], height / flow.shape[0]])
        flow = interpolate(flow.movedim(-1, 0)[None], (height, width), mode="bilinear", align_corners=False)
        flow = flow[0].movedim(0, -1) * ratio
    return flow
