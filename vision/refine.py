"""Masks put right: specks and holes, borders, and the flicker between frames."""

from __future__ import annotations

import torch
from torch import Tensor


@torch.no_grad()
def refined(mask: Tensor, grow: int = 0, feather: float = 0.0, holes: int = 0, specks: int = 0,
            smooth: int = 0) -> Tensor:
    """Drop specks, fill holes, smooth over time, grow, feather, in this order.

    Args:
        mask: [frames, height, width] in 0..1; up to the feathering it is cut at 0.5.
        grow: pixels by which the border moves out; negative moves it in.
        feather: standard deviation in pixels of the Gaussian that softens the border.
        holes: holes of at most so many pixels are filled.
        specks: islands of fewer pixels are dropped.
        smooth: frames to each side that vote on a pixel.

    Returns:
        [frames, height, width] in 0..1; untouched where every setting is 0.
    """
    if not (grow or feather or holes or specks or smooth):
        return mask.clone()
    out = (mask >= 0.5).float()
    if specks or holes:
        out = torch.stack([_patched(frame, holes, specks) for frame in out])
    if smooth:
        out = _voted(out, smooth)
    if grow:
        out = _grown(out, grow)
    if feather:
        out = _feathered(out, feather)
    return out


def _patched(mask: Tensor, holes: int, specks: int) -> Tensor:
    """One frame without small islands and small holes; a hole does not touch the picture's border."""
    import numpy as np
    from scipy.ndimage import label

    found = mask.bool().cpu().numpy()
    if specks:
        islands, _ = label(found, structure=np.ones((3, 3)))
        small = np.bincount(islands.ravel()) < specks
        found = found & ~small[islands]
    if holes:
        gaps, _ = label(~found)
        small = np.bincount(gaps.ravel()) <= holes
        border = np.concatenate([gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]])
        small[border] = False
        small[0] = False
        found = found | small[gaps]
    return torch.from_numpy(found).to(mask)


def _voted(mask: Tensor, reach: int) -> Tensor:
    """A pixel is inside where most of the 2 reach + 1 frames around it say so, nearer ones with more weight.

    The clip's ends vote with the frames that there are.
    """
    from kornia.filters import get_gaussian_kernel1d

    # A deviation of the reach: with a smaller one a frame's own vote would outweigh all others.
    weights = get_gaussian_kernel1d(2 * reach + 1, float(reach), dtype=mask.dtype, device=mask.device)[0]
    total, share = torch.zeros_like(mask), mask.new_zeros(len(mask), 1, 1)
    for offset, weight in zip(range(-reach, reach + 1), weights):
        here = slice(max(0, -offset), len(mask) - max(0, offset))
        there = slice(max(0, offset), len(mask) - max(0, -offset))
        if here.start < here.stop:
            total[here] += weight * mask[there]
            share[here] += weight
    # An even split keeps what the frame itself says.
    votes = total / share
    return torch.where((votes - 0.5).abs() < 1e-6, mask, (votes > 0.5).float())


def _grown(mask: Tensor, pixels: int) -> Tensor:
    """Dilated, or eroded by a negative number: by a cross and a square in turn, which makes an octagon, the roundest
    that small steps can do. Beyond the picture's border is what lies at it."""
    from kornia.morphology import dilation, erosion

    cross = mask.new_tensor([[0, 1, 0], [1, 1, 1], [0, 1, 0]])
    square, step = torch.ones_like(cross), dilation if pixels > 0 else erosion
    out = mask[:, None]
    for number in range(abs(pixels)):
        out = step(out, square if number % 2 else cross, border_type="geodesic")
    return out[:, 0]


def _feathered(mask: Tensor, deviation: float) -> Tensor:
    from kornia.filters import gaussian_blur2d

    # 3 deviations hold 99.7 % of it; a reflecting border needs a picture that is larger.
    radius = min(max(1, round(3 * deviation)), min(mask.shape[1:]) - 1)
    size = 2 * radius + 1
    return gaussian_blur2d(mask[:, None], (size, size), (deviation, deviation), border_type="reflect")[:, 0].clamp(0, 1)
