"""The colours of one clip brought to those of another: by mean and spread, or by histogram; no drift, no flicker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

METHODS = ("mean and spread", "mean", "histogram")
#: Which frames are measured together.
SPANS = ("whole clip", "drift", "each frame")
#: Bins of the histograms; a colour is off by less than one of them.
BINS = 1024


@dataclass(frozen=True)
class Statistics:
    """Of each frame's counted pixels: their number, sums and sums of squares by channel, and histograms.

    number [frames], sums, squares [frames, channels], counts [frames, channels, BINS], all float64.
    """

    number: np.ndarray
    sums: np.ndarray
    squares: np.ndarray
    counts: np.ndarray

    def pooled(self, weights: np.ndarray) -> Statistics:
        """Frames' statistics added up, with weights [.., frames]."""
        add = lambda part: np.tensordot(weights, part, 1)  # noqa: E731
        return Statistics(add(self.number), add(self.sums), add(self.squares), add(self.counts))

    def of(self, frame: int) -> Statistics:
        """One frame's; the only row where there is one for all."""
        row = slice(min(frame, len(self.number) - 1), min(frame, len(self.number) - 1) + 1)
        return Statistics(self.number[row], self.sums[row], self.squares[row], self.counts[row])

    def moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation by channel, [frames, channels] each."""
        mean = self.sums / self.number[:, None]
        return mean, np.sqrt(np.maximum(self.squares / self.number[:, None] - mean**2, 0))


@torch.no_grad()
def matched(images: Tensor, reference: Tensor, method: str = METHODS[0], span: str = SPANS[0], smooth: float = 12.0,
            strength: float = 1.0, mask: Tensor | None = None, reference_mask: Tensor | None = None,
            change: Tensor | None = None, progress: Callable[[int], None] = lambda done: None) -> Tensor:
    """y = x + strength w (T(x) - x), T by channel from the statistics of ``images`` to those of ``reference``.

    "mean": T(x) = x - m + m_r. "mean and spread": T(x) = (x - m) s_r / s + m_r (Reinhard et al., 2001, in the picture's
    own channels). "histogram": T = F_r^-1 F with the distribution functions F of the values (as in Gonzalez and Woods).
    The statistics are those of the whole clip; of each frame; or ("drift") of each frame's surroundings in time,
    weighted by a Gaussian: what changes slowly is taken out, and no frame flickers against its neighbours.

    Args:
        images: [frames, height, width, channels], of which the first three are colours.
        reference: [n, h, w, channels]; but for "whole clip" one frame, or as many as there are images.
        smooth: standard deviation of the Gaussian in frames.
        mask, reference_mask: [frames or 1, height, width] in 0 .. 1, the weight with which a pixel counts.
        change: w, of the same form as ``mask``; everywhere 1 if None.

    Returns:
        Like ``images``; within 0 .. 1 where both clips are.

    Raises:
        ValueError: numbers of frames that do not fit, or masks that leave nothing to measure.
    """
    if not strength:
        return images.clone()
    if span != SPANS[0] and len(reference) not in (1, len(images)):
        raise ValueError(f"reference: has {len(reference)} frames, but images {len(images)}; give one frame or as "
                         f"many, or choose '{SPANS[0]}'.")
    lowest, highest = ends(images, reference)
    own = measured(images, mask, lowest, highest, "mask")
    other = measured(reference, reference_mask, lowest, highest, "reference_mask")
    own, other = (spanned(part, span, smooth) for part in (own, other))
    out, limits = images.clone(), (0.0, 1.0) if 0 <= lowest and highest <= 1 else (lowest, highest)
    for i in range(len(images)):
        x = images[i, ..., :3].float()
        a, b = own.of(i), other.of(i)
        y = by_histogram(x, a, b, lowest, highest) if method == "histogram" else by_moments(x, a, b, method)
        part = torch.ones_like(x[..., :1]) if change is None else change[min(i, len(change) - 1), ..., None].to(x)
        # lerp rounds, and what is not to change must not.
        mixed = torch.where(part > 0, torch.lerp(x, y.clamp(*limits), strength * part), x)
        out[i, ..., :3] = mixed.to(out.dtype)
        progress(i + 1)
    return out


def brought_back(made: Tensor, source: Tensor, kept: Tensor) -> Tensor:
    """An edited clip, its colours shifted by what they differ from the source's where nothing was edited.

    By "mean" alone: the spread of a plain background says nothing of the object before it, whose colours it would carry
    far away.

    Args:
        made, source: [frames, height, width, channels].
        kept: [frames, height, width], 1 where the edit is the source.
    """
    return matched(made, source, "mean", mask=kept, reference_mask=kept)


def ends(*clips: Tensor) -> tuple[float, float]:
    """Lowest and highest colour of all clips; 0 and 1 where none leaves them."""
    lowest = min(frame[..., :3].min().item() for clip in clips for frame in clip)
    highest = max(frame[..., :3].max().item() for clip in clips for frame in clip)
    return min(lowest, 0.0), max(highest, 1.0)


def measured(images: Tensor, mask: Tensor | None, lowest: float, highest: float, label: str) -> Statistics:
    """Every frame's statistics, frame by frame.

    Args:
        images: [frames, height, width, 3 or more]. mask: weights [frames or 1, height, width].
        lowest, highest: of ``BINS`` equal bins of the histogram.

    Raises:
        ValueError: the mask is empty in every frame.
    """
    rows = []
    for i, frame in enumerate(images):
        values = frame[..., :3].reshape(-1, 3).double().cpu()
        weight = torch.ones(len(values)).double()
        if mask is not None:
            weight = mask[min(i, len(mask) - 1)].reshape(-1).double().cpu()
            values, weight = values[weight > 0], weight[weight > 0]
        places = ((values - lowest) / (highest - lowest) * BINS).long().clamp(0, BINS - 1)
        counts = torch.stack([torch.bincount(column, weight, BINS) for column in places.T])
        rows.append((weight.sum(), (weight @ values), (weight @ values.square()), counts))
    found = Statistics(*(torch.stack(part).numpy() for part in zip(*rows, strict=True)))
    if not found.number.any():
        raise ValueError(f"{label}: is empty in every frame, so there are no colours to measure; mark some of "
                         "the picture, 1 inside, or disconnect it.")
    return found


def spanned(found: Statistics, span: str, smooth: float) -> Statistics:
    """Statistics of one row for the whole clip, or one a frame; frames with nothing to measure take their
    neighbours'."""
    count = len(found.number)
    if span == "whole clip" or count == 1:
        return found.pooled(np.ones((1, count)))
    distance = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    there = np.where(found.number > 0, distance, count)
    if span == "drift" and smooth > 0:
        # Against the nearest frame that has something: else all weights of one far from such would be 0.
        beyond = np.maximum(distance**2 - there.min(1, keepdims=True) ** 2, 0)
        return found.pooled(np.exp(-0.5 * beyond / smooth**2))
    return found.pooled(np.eye(count)[there.argmin(1)])


def by_moments(x: Tensor, own: Statistics, other: Statistics, method: str) -> Tensor:
    """(x - mean) s_r / s + mean_r of each channel [..., 3], r the reference; with ``method`` "mean" s_r / s is 1.

    A channel without any spread only moves.
    """
    (mean, spread), (aim, wide) = own.moments(), other.moments()
    scale = np.where(spread > 1e-4, wide / np.maximum(spread, 1e-4), 1.0) if method != "mean" else np.ones_like(mean)
    as_tensor = lambda part: torch.from_numpy(part[0]).to(x)  # noqa: E731
    return (x - as_tensor(mean)) * as_tensor(scale) + as_tensor(aim)


def by_histogram(x: Tensor, own: Statistics, other: Statistics, lowest: float, highest: float) -> Tensor:
    """Each channel [..., 3] through F_r^-1 F, read off at the edges of the bins and straight between.

    F is the cumulative histogram of the clip, F_r that of the reference.
    """
    edges = np.linspace(lowest, highest, BINS + 1)
    place = (x - lowest) / (highest - lowest) * BINS
    bin_of = place.long().clamp(0, BINS - 1)
    out = torch.empty_like(x)
    for channel in range(3):
        f, f_r = (np.concatenate([[0.0], part.counts[0, channel].cumsum()]) for part in (own, other))
        f, f_r = f / f[-1], f_r / f_r[-1]
        # Where the reference has no pixels f_r stands still; its inverse jumps there from one end to the other, and a
        # bin begins behind the jump and ends before it.
        rises = np.diff(f_r) > 0
        kept = np.append(rises, False) | np.insert(rises, 0, False)
        begin = np.interp(f[:-1], f_r[kept], edges[kept])
        end = np.interp(1 - f[1:], 1 - f_r[kept][::-1], edges[kept][::-1])
        begin, end = (torch.from_numpy(part).to(x)[bin_of[..., channel]] for part in (begin, end))
        out[..., channel] = torch.lerp(begin, end, place[..., channel] - bin_of[..., channel])
    return out
