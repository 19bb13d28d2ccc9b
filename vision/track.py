"""A mask carried through a clip by optical flow and put right in each frame by a segmenter, with its confidence.

For where no SAM 2 video model is loaded. From frame s to its neighbour t:

    moved = M_s warped along the flow from t to s
    M_t   = of the segmenter's masks of moved's box, and moved, the one of greatest c_t IoU(M, moved)
    c_t   = (likeness of M_t's colours to the first mask's) min(|M_t| / A, A / |M_t|)

with A the area expected of the whole object, so that the confidence falls as the object is covered.
Where it is too low the object is hidden: M_t is empty, its place goes on as it moved before, slower
and slower, and the segmenter is asked at points of the object's colours around there until one of
its masks looks like the object. Without a segmenter a hidden object is not found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .boxes import around
from .flow import estimate_flow, warp
from .segmentation.prompt import Prompt, Segmenter

#: Flow is estimated on frames of at most so many pixels a side: details cost time and help little.
FLOW_SIDE = 384
#: Below the first confidence an object is hidden; above the second, when it was, found again.
LOST, FOUND = 0.15, 0.3
#: What shares less of its colours with the object is not the object, however large.
LIKE = 0.5
#: How much the single mask of a box is trusted beside the three, and how much the flow's.
MORE, FLOW = 1.1, 0.6
#: A hidden object is looked for at so many points.
POINTS = 48
#: How much of its speed a hidden object keeps from frame to frame.
FADE = 0.8
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
    hidden: int = 0


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
    frame, features = frames[now], None if segmenter is None else segmenter.encode(frames[now][None])[0]
    if seen.hidden:
        seen.hidden += 1
        mask = torch.zeros_like(seen.mask) if segmenter is None else _searched(segmenter, features, frame, seen)
    else:
        flow = _flow(frame, frames[before])
        mask = (warp(seen.mask[None, ..., None], flow[None])[0, ..., 0] > 0.5).float()
        if segmenter is not None and mask.any():
            mask = _put_right(segmenter, features, frame, mask, seen)
    sure, like = _confidence(frame, mask, seen), _likeness(frame, mask, seen)
    if like < LIKE or sure < (FOUND if seen.hidden else LOST):
        seen.hidden = max(seen.hidden, 1)
        return torch.zeros_like(mask), sure
    box = around(mask)
    if not seen.hidden:
        seen.speed = 0.5 * seen.speed + 0.5 * (_centre(box) - _centre(seen.box))
        # The size may change slowly; a sudden loss is an occlusion, not a new size.
        seen.area = max(0.98 * seen.area, 0.8 * seen.area + 0.2 * mask.sum().item())
    seen.mask, seen.box, seen.hidden = mask, box, 0
    return mask, sure


def _put_right(segmenter: Segmenter, features: Any, frame: Tensor, moved: Tensor, seen: Seen) -> Tensor:
    """Of the segmenter's masks of the moved one's box and that itself, what looks most like the object where it is
    expected."""
    box = Prompt(boxes=_grown(around(moved), frame)[None])
    found = [segmenter.predict(features, box, multimask=several).masks[0] for several in (False, True)]
    masks = torch.cat([(torch.cat(found) > 0).float().cpu(), moved[None]])
    worth = torch.tensor([_overlap(mask, moved) * _confidence(frame, mask, seen) for mask in masks])
    worth[0] *= MORE
    worth[-1] *= FLOW
    return masks[worth.argmax()]


def _searched(segmenter: Segmenter, features: Any, frame: Tensor, seen: Seen) -> Tensor:
    """What looks most like a hidden object, the nearer to its expected place the better: the segmenter's masks of
    points that have its colours, the best one asked for once more by its box."""
    points, expected, reach = _places(frame, seen)
    if not len(points):
        return torch.zeros_like(seen.mask)
    asked = Prompt(points=points[:, None], labels=torch.ones(len(points), 1))
    masks = (segmenter.predict(features, asked, multimask=True).masks.flatten(0, 1) > 0).float().cpu()
    worth = torch.tensor([_worth(frame, mask, seen, expected, reach) for mask in masks])
    best = masks[worth.argmax()]
    if not best.any():
        return best
    again = segmenter.predict(features, Prompt(boxes=_grown(around(best), frame)[None])).masks[0, 0]
    again = (again > 0).float().cpu()
    return again if _worth(frame, again, seen, expected, reach) > worth.max() else best


def _places(frame: Tensor, seen: Seen) -> tuple[Tensor, Tensor, float]:
    """Points [n, 2] of a hidden object's colours, nearest first; its expected centre; how far it may be from there."""
    height, width = frame.shape[:2]
    side = (seen.box[2:] - seen.box[:2]).min().item()
    # It slows down or turns back as often as not: its speed fades.
    expected = _centre(seen.box) + seen.speed * (1 - FADE**seen.hidden) / (1 - FADE) * FADE
    expected = torch.minimum(expected.clamp(min=0), torch.tensor([width, height]) - 1.0)
    reach = side * (0.5 + 0.15 * seen.hidden)
    step = max(2, round(side / 5))
    y, x = torch.meshgrid(torch.arange(step // 2, height, step), torch.arange(step // 2, width, step), indexing="ij")
    points = torch.stack([x.flatten(), y.flatten()], 1)
    index = _bins(frame[points[:, 1], points[:, 0]])
    usual = _histogram(frame, torch.ones(height, width))
    points = points[seen.colours[index] > usual[index]].float()
    return points[(points - expected).norm(dim=1).argsort()[:POINTS]], expected, reach


def _worth(frame: Tensor, mask: Tensor, seen: Seen, expected: Tensor, reach: float) -> float:
    """The confidence, less the farther from the expected place."""
    box = around(mask)
    if box is None:
        return 0.0
    far = (_centre(box) - expected).norm().item() / reach
    return _confidence(frame, mask, seen) / (1 + far**2 / 4)


def _grown(box: Tensor, frame: Tensor, share: float = 0.05) -> Tensor:
    """The box with a little more to each side, on the frame."""
    height, width = frame.shape[:2]
    more = (box[2:] - box[:2]) * share
    limit = torch.tensor([width, height], dtype=box.dtype)
    return torch.cat([(box[:2] - more).clamp(min=0), torch.minimum(box[2:] + more, limit)])


def _centre(box: Tensor) -> Tensor:
    return (box[:2] + box[2:]) / 2


def _overlap(a: Tensor, b: Tensor) -> float:
    """IoU of two masks of 0 and 1."""
    return ((a * b).sum() / torch.maximum(a, b).sum().clamp(min=1)).item()


def _confidence(frame: Tensor, mask: Tensor, seen: Seen) -> float:
    """Likeness of colours times likeness of areas."""
    area = mask.sum().item()
    return _likeness(frame, mask, seen) * min(area / seen.area, seen.area / area) if area else 0.0


def _likeness(frame: Tensor, mask: Tensor, seen: Seen) -> float:
    """The share of the colours inside a mask that are the object's, too."""
    return torch.minimum(_histogram(frame, mask), seen.colours).sum().item()


def _bins(pixels: Tensor) -> Tensor:
    """The number of the colour of each pixel [n, 3], among BINS^3."""
    bins = (pixels[:, :3].float().cpu().clamp(0, 1) * BINS).long().clamp(max=BINS - 1)
    return (bins[:, 0] * BINS + bins[:, 1]) * BINS + bins[:, 2]


def _histogram(frame: Tensor, mask: Tensor) -> Tensor:
    """Shares of the colours inside a mask, [BINS^3], smoothed along each channel so that light may change a little."""
    counts = torch.bincount(_bins(frame.cpu()[mask > 0.5]), minlength=BINS**3).float().reshape(1, 1, BINS, BINS, BINS)
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
