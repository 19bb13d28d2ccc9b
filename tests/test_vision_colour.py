"""Colour matching against formulas spelt out in float64, and against scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steadyedit.vision.colour import BINS, METHODS, SPANS, matched
from tolerances import FLOAT32, NETWORK, RUN, assert_close


def clips(frames=5, height=24, width=30, seed=0):
    """A clip, and a darker, warmer one of another size."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 + 0.4 * torch.rand(frames, height, width, 3, generator=generator)
    reference = torch.tensor([0.9, 0.6, 0.4]) * (0.1 + 0.6 * torch.rand(frames, 20, 33, 3, generator=generator) ** 2)
    return images, reference


def test_mean_and_spread_are_the_references():
    images, reference = clips()
    x, r = images.double(), reference.double()
    over = (0, 1, 2)
    expected = (x - x.mean(over)) * (r.std(over, correction=0) / x.std(over, correction=0)) + r.mean(over)
    assert_close(matched(images, reference), expected.clamp(0, 1), torch.float32)
    assert_close(matched(images, reference, "mean"), (x - x.mean(over) + r.mean(over)).clamp(0, 1), torch.float32)
    half = matched(images, reference, strength=0.5)
    assert_close(half, (x + expected.clamp(0, 1)) / 2, torch.float32)


@pytest.mark.parametrize("span", ["whole clip", "each frame"])
def test_the_histogram_is_the_references(span):
    """As scikit-image matches it, and by the quantiles of the values, to the width of a few bins."""
    from skimage.exposure import match_histograms

    images, reference = clips()
    out = matched(images, reference, "histogram", span).double().numpy()
    x, r = images.double().numpy(), reference.double().numpy()
    if span == "whole clip":
        wide = match_histograms(x.reshape(-1, 30, 3), r.reshape(-1, 33, 3), channel_axis=-1).reshape(x.shape)
        pairs = [(out, r)]
    else:
        wide = np.stack([match_histograms(a, b, channel_axis=-1) for a, b in zip(x, r, strict=True)])
        pairs = list(zip(out, r, strict=True))
    assert np.abs(out - wide).mean() < 2 / BINS
    for found, aim in pairs:
        for channel in range(3):
            at = np.linspace(0.02, 0.98, 25)
            assert np.abs(np.quantile(found[..., channel], at) - np.quantile(aim[..., channel], at)).max() < 0.01


def test_flat_colours_go_where_they_belong():
    """Two flat colours with nothing between: the histogram's inverse jumps, and nothing lands in the gap."""
    images = torch.zeros(1, 10, 10, 3)
    images[:, 5:] = 0.75
    reference = torch.full((1, 8, 8, 3), 0.25)
    reference[:, 4:] = 0.5
    out = matched(images, reference, "histogram")
    assert (out[:, :5] - 0.25).abs().max() < 2 / BINS and (out[:, 5:] - 0.5).abs().max() < 2 / BINS
    flat = torch.full((1, 4, 4, 3), 0.5)
    assert_close(matched(flat, reference), torch.full_like(flat, 0.375).double(), torch.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", SPANS)
def test_a_clip_matched_to_itself_is_itself(method, span):
    images, _ = clips()
    images[2] = 0.5
    limit = 1.5 / BINS if method == "histogram" else 1e-5
    assert (matched(images, images, method, span) - images).abs().max() < limit
    assert torch.equal(matched(images, 1 - images, method, span, strength=0.0), images)


def masked(frames=5, height=24, width=30):
    mask = torch.zeros(frames, height, width)
    for i in range(frames):
        mask[i, 4:14, 3 + i : 15 + i] = 1
    return mask


def test_a_region_is_measured_and_changed_alone():
    images, reference = clips()
    mask, other = masked(), torch.zeros(1, 20, 33)
    other[:, 10:, :20] = 1
    out = matched(images, reference, "mean", mask=mask, reference_mask=other, change=mask)
    assert torch.equal(out[mask == 0], images[mask == 0])
    x, r = images[mask == 1].double(), reference[:, 10:, :20].double()
    assert_close(out[mask == 1], (x - x.mean(0) + r.mean((0, 1, 2))).clamp(0, 1), torch.float32)
    soft = 0.25 * mask
    quarter = matched(images, reference, "mean", mask=soft, reference_mask=other, change=soft)
    assert_close(quarter[mask == 1], (0.75 * x + 0.25 * out[mask == 1].double()), torch.float32)


def drifting(frames=40):
    """A still scene; the same with a slow drift and a flicker in the brightness of red."""
    generator = torch.Generator().manual_seed(0)
    still = (0.4 + 0.2 * torch.rand(1, 16, 16, 3, generator=generator)).expand(frames, -1, -1, -1)
    drift = 0.15 * torch.arange(frames) / frames
    flicker = 0.02 * (-1.0) ** torch.arange(frames)
    moved = still.clone()
    moved[..., 0] += (drift + flicker)[:, None, None]
    return still, moved, drift, flicker


def test_drift_is_taken_out_and_flicker_is_not_put_in():
    still, moved, drift, flicker = drifting()
    offset = lambda out: (out - still)[..., 0].mean((1, 2))  # noqa: E731
    calm = offset(matched(moved, still, "mean", "drift", smooth=5.0))
    # Away from the ends, where the surroundings of a frame lie to one side.
    assert (calm - flicker)[14:-14].abs().max() < RUN and (calm - flicker).abs().max() < 0.02
    assert offset(matched(moved, still, "mean", "each frame")).abs().max() < FLOAT32
    whole = offset(matched(moved, still, "mean", "whole clip"))
    assert_close(whole, (drift + flicker - (drift + flicker).mean()).double(), torch.float32)
    first = offset(matched(moved, moved[:1], "mean", "drift", smooth=5.0))
    assert (first - flicker - moved[0, ..., 0].mean() + still[0, ..., 0].mean())[14:-14].abs().max() < RUN


def test_frames_without_a_mask_take_their_neighbours_change():
    images, reference = clips(frames=9)
    reference = 0.4 + 0.4 * reference  # so that nothing is cut off at 0 or 1
    mask = torch.zeros(9, 24, 30)
    mask[4] = 1
    for span in ("drift", "each frame"):
        out = matched(images, reference, "mean", span, smooth=0.5, mask=mask)
        shift = (out - images).mean((1, 2))
        assert shift.isfinite().all()
        # Measured in one frame alone, the images' mean is one for all; the reference's is each frame's own.
        means = images[4].mean((0, 1))
        if span == "each frame":
            assert (shift - (reference.mean((1, 2)) - means)).abs().max() < NETWORK


def test_bright_colours_and_alpha_survive():
    images, reference = clips()
    four = torch.cat([4 * images, torch.rand(5, 24, 30, 1)], -1)
    out = matched(four, 4 * reference)
    assert torch.equal(out[..., 3], four[..., 3]) and out[..., :3].max() > 1
    assert_close(out[..., :3].mean((0, 1, 2)), 4 * reference.double().mean((0, 1, 2)), torch.float16)
    half = matched(images.half(), reference.half())
    assert half.dtype == torch.float16


def test_what_does_not_fit_is_told():
    images, reference = clips()
    with pytest.raises(ValueError, match="^reference: has 3 frames, but images 5"):
        matched(images, reference[:3], span="drift")
    with pytest.raises(ValueError, match="^mask: is empty in every frame"):
        matched(images, reference, mask=torch.zeros(5, 24, 30))
