"""Measures of an edited clip. Frames are [F, H, W, 3] in 0..1, flows as in ``flow``.

Where the true answer is known (the toy world renders it), ``truth`` is that clip, and flow,
its validity and the masks are the renderer's own. Every function returns one float for one
clip; None where it has no meaning (a single frame has no motion).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import max_pool2d

from .flow import estimate_flow, motion_boundary, warp

#: How ``warp_error`` averages.
Warping = Literal["pooled", "lai"]
# 100 dB: a difference below what float32 holds; JSON has no infinity.
_LEAST_MSE = 1e-10


def psnr(frames: Tensor, truth: Tensor, mask: Tensor | None = None) -> float | None:
    """Peak signal-to-noise ratio over the whole clip, dB, at most 100.

    PSNR = -10 log10( sum_x m(x) |frames(x) - truth(x)|^2 / (3 sum_x m(x)) ), x over the
    pixels of all frames.

    Args:
        mask: weights [F, H, W]: the object's for ``psnr_inside``, 1 minus that for
            ``psnr_background``; None for ``psnr_truth``.

    Returns:
        None where the mask is empty.
    """
    squared = (frames.double() - truth.double()).square().mean(-1)
    weight = torch.ones_like(squared) if mask is None else mask.to(squared)
    if weight.sum() < 1:
        return None
    mse = (weight * squared).sum() / weight.sum()
    return float(-10 * torch.log10(mse.clamp(min=_LEAST_MSE)))


def boundary_error(frames: Tensor, truth: Tensor, mask: Tensor) -> float | None:
    """Mean of |frames - truth| in a band around the mask's edge, over channels and frames.

    sum_x b(x) |frames(x) - truth(x)| / sum_x b(x),   b = max - min of the mask in a 5x5 window:
    the pixels from which, within two pixels, both sides of the edge are seen.

    Args:
        mask: [F, H, W] in 0..1.

    Returns:
        None where the mask has no edge.
    """
    plane = mask.double()[:, None]
    highest, lowest = (sign * max_pool2d(sign * plane, 5, 1, 2)[:, 0] for sign in (1, -1))
    band = highest - lowest
    if band.sum() < 1:
        return None
    error = (frames.double() - truth.double()).abs().mean(-1)
    return float((band * error).sum() / band.sum())


def flicker(frames: Tensor, truth: Tensor, flow: Tensor, valid: Tensor) -> float | None:
    """Frame-to-frame change of the error, along the true flow.

    With D_t = frames_t - truth_t: the mean of |D_t+1(x + flow_t(x)) - D_t(x)| over valid x, t
    and channels. An error that sticks to the moving object is no flicker; a frozen or
    smeared clip gains nothing, for the truth moves on beneath it.

    Args:
        flow: [F - 1, H, W, 2] of the truth.
        valid: [F - 1, H, W], points that are seen in both frames.
    """
    return _along(frames - truth, flow, valid, torch.abs)


def warp_error(frames: Tensor, flow: Tensor, valid: Tensor, definition: Warping = "pooled") -> float | None:
    """Mean squared change along the flow. The usual measure; it rewards blur and stillness, which ``flicker`` does not.

    "pooled": the mean of (frames_t+1(x + flow_t(x)) - frames_t(x))^2 over valid x, t and channels. "lai": that of each
    pair of frames over valid x that are at no motion boundary, and channels, then the mean over the pairs which have
    such points (Lai et al. 2018, "Learning blind video temporal consistency"; their formula sums over the channels,
    their code and this one take the mean).

    Args:
        frames: [F, H, W, 3] in 0 .. 1, so that the value times 100 is on the scale of published tables.
        flow, valid: as in ``flicker``.

    Returns:
        None where no pair has a point.
    """
    if definition == "pooled":
        return _along(frames, flow, valid, torch.square)
    valid = valid.bool() & ~motion_boundary(flow)
    pairs = (_along(frames[t : t + 2], flow[t : t + 1], valid[t : t + 1], torch.square) for t in range(len(flow)))
    errors = [error for error in pairs if error is not None]
    return sum(errors) / len(errors) if errors else None


def _along(clip: Tensor, flow: Tensor, valid: Tensor, size: Any) -> float | None:
    valid = valid.to(clip.dtype)
    if not len(flow) or valid.sum() == 0:
        return None
    change = size(warp(clip[1:], flow) - clip[:-1]).mean(-1)
    return float((valid * change).sum() / valid.sum())


def interpolation(frames: Tensor, flow: Tensor, valid: Tensor) -> tuple[float, float] | None:
    """Interpolation Error and Interpolation PSNR (dB): every inner frame from its two neighbours.

    A point that is at x in frame t - 1 is at y = x + flow_t-1(x) in frame t and at
    y + flow_t(y) in t + 1. The interpolated frame has the mean of the neighbours there, and

        IE_t = sqrt( mean of (interpolated - frames_t(y))^2 over valid x and channels ),
        PSNR_t = -20 log10 IE_t,   at most 100 dB;

    both are means over t. The interpolator is the flow that is given; a published number is
    that of a network which interpolates, ``network_interpolation``.

    Args:
        frames: [F, H, W, 3] in 0 .. 1.
        flow, valid: as in ``flicker``.

    Returns:
        None for fewer than three frames, or where no point is seen in three of them.
    """
    errors = []
    for before, after in zip(range(len(flow) - 1), range(1, len(flow)), strict=True):
        first = flow[before][None]
        # Where the middle frame's own flow is blended from an invalid neighbour, it says nothing.
        seen = warp(valid[after][None, ..., None].float(), first)[0, ..., 0] > 0.999
        weight = (valid[before].bool() & seen).to(frames.dtype)
        if weight.sum() == 0:
            continue
        onwards = first + warp(flow[after][None], first)
        middle, last = warp(frames[after][None], first)[0], warp(frames[after + 1][None], onwards)[0]
        squared = ((frames[before] + last) / 2 - middle).square().mean(-1)
        errors.append(((weight * squared).sum() / weight.sum()).double())
    return _error_and_psnr(torch.stack(errors)) if errors else None


def network_interpolation(frames: Tensor, predicted: Tensor) -> tuple[float, float] | None:
    """Interpolation Error and Interpolation PSNR (dB) of an interpolating network, as published (Jiang et al. 2018).

    IE_t and PSNR_t as in ``interpolation``, of frames_t and its prediction over all pixels; both are means over
    t = 1, 3, 5, ..., the frames between two that the network saw.

    Args:
        predicted: [(F - 1) // 2, H, W, 3], frames 1, 3, 5, ... from their two neighbours.

    Returns:
        None for fewer than three frames.
    """
    true = frames[1:-1:2].double()
    return _error_and_psnr((predicted.double() - true).square().mean((1, 2, 3))) if len(true) else None


def _error_and_psnr(mse: Tensor) -> tuple[float, float]:
    """Means over frames, of each one's mean squared error."""
    return float(mse.sqrt().mean()), float((-10 * torch.log10(mse.clamp(min=_LEAST_MSE))).mean())


def motion_error(frames: Tensor, flow: Tensor, valid: Tensor, mask: Tensor | None = None) -> float | None:
    """Mean end-point error |estimated flow of frames - true flow| in pixels.

    The estimator (``estimate_flow``) has an error of its own, the same for all methods:
    compare methods, or a method with the truth's own ``motion_error``.

    Args:
        mask: weights [F - 1, H, W], what moves (all objects); None for every valid point.
    """
    weight = valid.float() if mask is None else valid.float() * mask
    if not len(flow) or weight.sum() == 0:
        return None
    distance = (estimate_flow(frames) - flow).norm(dim=-1)
    return float((weight * distance).sum() / weight.sum())


def edit_accuracy(named: Sequence[str], wanted: str) -> float:
    """Share of the frames in which a classifier names the edited thing as it was asked for.

    Args:
        named: per frame, the class of the attribute that the edit changes (of a crop around
            the object for colour, shape and texture; of the whole frame for background and
            style).
    """
    return sum(name == wanted for name in named) / len(named)


def clip_frame(embeddings: Tensor) -> float | None:
    """CLIP-Frame: mean cosine between the image embeddings [F, D] of all pairs of frames."""
    count = len(embeddings)
    if count < 2:
        return None
    unit = torch.nn.functional.normalize(embeddings.double(), dim=-1)
    cosines = unit @ unit.T
    return float((cosines.sum() - cosines.trace()) / (count * (count - 1)))


def clip_text(embeddings: Tensor, text: Tensor) -> float:
    """CLIP-Text: mean cosine between the frames' embeddings [F, D] and the edit prompt's [D]."""
    return float(torch.nn.functional.cosine_similarity(embeddings.double(), text.double()[None], dim=-1).mean())


def mean_shift(before: Tensor, after: Tensor, frames: int) -> float:
    """How far a temporal module moves the temporal mean of its features (EI2, objective 5).

    |mu' - mu| / |mu|, Frobenius norms over all branches, sites and channels, where mu is the
    mean over the frames at one site and channel.

    Args:
        before, after: the module's input and output, [branches * frames, tokens, channels].
    """
    mean, moved = (_by_frame(z, frames).mean(1) for z in (before, after))
    return float((moved - mean).norm() / mean.norm().clamp(min=1e-12))


def variance_shift(before: Tensor, after: Tensor, frames: int) -> float:
    """How far a temporal module changes the covariance over time of its features.

    sqrt( sum_s |Sigma'_s - Sigma_s|_F^2 / sum_s |Sigma_s|_F^2 ) over sites s, Sigma the
    [channels, channels] covariance over the frames. With A, B the centred [frames,
    channels] features, <A^T A, B^T B>_F = |A B^T|_F^2: only frames x frames matrices arise.

    Args:
        before, after: as in ``mean_shift``.
    """
    layout = "branches frames tokens c -> branches tokens frames c"
    a, b = (rearrange(_by_frame(z, frames), layout) for z in (before, after))
    a, b = (z - z.mean(-2, keepdim=True) for z in (a, b))
    own, other, cross = ((x @ y.mT).square().sum() for x, y in ((a, a), (b, b), (a, b)))
    return float(((own + other - 2 * cross).clamp(min=0) / own.clamp(min=1e-24)).sqrt())


def _by_frame(z: Tensor, frames: int) -> Tensor:
    return rearrange(z.double(), "(branches frames) ... -> branches frames ...", frames=frames)


def paired_interval(values: Sequence[float | None], first: Sequence[float | None]) -> list[float] | None:
    """95 % confidence interval of the mean of values - first, paired over clips.

    mean(d) +- t_{0.975, n - 1} s / sqrt(n), d_i = values_i - first_i (Student's t).

    Args:
        values, first: the measure of a method and of the one it is compared with, by clip;
            pairs with a None are left out.

    Returns:
        [low, high], or None for fewer than two pairs.
    """
    from scipy.stats import t

    pairs = [(a, b) for a, b in zip(values, first, strict=True) if a is not None and b is not None]
    if len(pairs) < 2:
        return None
    difference = torch.tensor([a - b for a, b in pairs], dtype=torch.float64)
    half = float(t.ppf(0.975, len(pairs) - 1)) * float(difference.std()) / len(pairs) ** 0.5
    return [float(difference.mean()) - half, float(difference.mean()) + half]
