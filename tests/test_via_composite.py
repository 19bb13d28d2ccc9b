"""The edited region over the original's pixels."""

from __future__ import annotations

import pytest
import torch
from steadyedit.methods.via.composite import LARGEST, RING, colour_offset, composite, feathered, morphed
from tolerances import FLOAT32, FLOAT32_STEP, FLOAT64_CHAIN


def scene(frames=2, height=37, width=51, seed=0):
    generator = torch.Generator().manual_seed(seed)
    original = torch.rand(frames, height, width, 3, generator=generator)
    mask = torch.zeros(frames, height, width)
    for i in range(frames):
        mask[i, 12:24, 15 + i : 31 + i] = 1
    edited = torch.rand(original.shape, generator=generator)
    return edited, original, mask


def distance_to(mask):
    """Of every pixel to the nearest masked one, in squares."""
    far = torch.full(mask.shape, 1000)
    for reach in range(60, -1, -1):
        far[morphed(mask[None, None], reach)[0, 0] > 0] = reach
    return far


@pytest.mark.parametrize("match_colour", [True, False])
@pytest.mark.parametrize("feather", [0, 1, 2, 7, 16])
@pytest.mark.parametrize("grow", [-3, 0, 4])
def test_outside_of_the_feather_it_is_the_original_bit_for_bit(feather, grow, match_colour):
    edited, original, mask = scene()
    out = composite(edited, original, mask, feather, grow, match_colour)
    assert out.shape == original.shape and 0 <= out.min() and out.max() <= 1
    for i in range(2):
        distance = distance_to(morphed(mask[i][None, None], grow)[0, 0])
        outside = distance > feather
        assert torch.equal(out[i][outside], original[i][outside])
        assert not torch.equal(out[i][~outside], original[i][~outside])
        if not match_colour:
            assert torch.equal(out[i][distance == 0], edited[i][distance == 0]), "the whole mask shows the edit"


def test_the_seam_falls_steadily():
    mask = torch.zeros(1, 1, 40, 60)
    mask[..., 15:25, 20:30] = 1
    row = feathered(mask, 10)[0, 0, 20]
    assert (row[20:30] == 1).all() and (row[40:] == 0).all()
    assert (row[30:40].diff() < 0).all() and row[39] > 0
    assert torch.equal(feathered(mask, 0), mask)


def test_a_mask_at_the_border_has_the_same_seam_there():
    mask = torch.zeros(1, 1, 30, 40)
    mask[..., :10, 10:20] = 1
    seam = feathered(mask, 8)[0, 0]
    assert torch.allclose(seam[0], seam[5], atol=FLOAT32_STEP) and seam.max() == 1


def test_growing_and_shrinking_are_by_squares():
    mask = torch.zeros(1, 1, 9, 11)
    mask[..., 3:6, 4:7] = 1
    assert morphed(mask, 2)[0, 0].sum() == 7 * 7 and morphed(mask, -1)[0, 0].sum() == 1
    assert morphed(mask, -2).sum() == 0 and torch.equal(morphed(mask, 0), mask)
    assert (morphed(mask, 500) == 1).all()


def test_the_offset_is_its_equation():
    """Spelt out at single places, with sums in float64."""
    edited, original, mask = scene(1)
    edited, original = (images.movedim(-1, 1).double() for images in (edited, original))
    distance = distance_to(mask[0])
    ring = ((distance > 0) & (distance <= RING)).double()
    delta = (original - edited)[0].clamp(-LARGEST, LARGEST) * ring
    mean, fade, reach = delta.sum((-2, -1)) / ring.sum(), 1e-3, 3 * RING
    line = torch.exp(-torch.arange(-reach, reach + 1).double() ** 2 / (2 * RING**2))
    line = line / line.sum()
    out = colour_offset(edited, original, mask[None].double(), feather=2)[0]
    for y, x in [(0, 0), (18, 22), (12, 15), (36, 50)]:
        near, weight = torch.zeros(3).double(), 0.0
        for v in range(max(0, y - reach), min(37, y + reach + 1)):
            for u in range(max(0, x - reach), min(51, x + reach + 1)):
                g = line[v - y + reach] * line[u - x + reach]
                near, weight = near + g * delta[:, v, u], weight + g * ring[v, u]
        assert torch.allclose(out[:, y, x], (near + fade * mean) / (weight + fade), atol=FLOAT64_CHAIN)


@pytest.mark.parametrize("shift", [0.05, -0.03])
def test_a_shift_of_colour_disappears(shift):
    _, original, mask = scene()
    original = 0.2 + 0.6 * original
    out = composite(original + shift, original, mask)
    assert (out - original).abs().max() < FLOAT32
    unmatched = composite(original + shift, original, mask, match_colour=False)
    assert (unmatched - original).abs().max() > 0.9 * abs(shift)


def test_a_shift_that_changes_along_the_seam_is_followed():
    original = torch.full((1, 64, 96, 3), 0.5)
    mask = torch.zeros(1, 64, 96)
    mask[:, 24:40, 20:76] = 1
    shift = torch.linspace(-0.06, 0.06, 96)[:, None].expand(64, 96, 3)
    left = (composite(original + shift, original, mask) - original).abs().max()
    right = (composite(original + shift, original, mask, match_colour=False) - original).abs().max()
    assert left < 0.4 * right


def test_the_edit_is_not_washed_out_by_what_leaks_around_it():
    original = torch.full((1, 64, 64, 3), 0.3)
    edited = original.clone()
    edited[:, 20:44, 20:44] = 0.9
    mask = torch.zeros(1, 64, 64)
    mask[:, 24:40, 24:40] = 1
    out = composite(edited, original, mask)
    assert (out[:, 28:36, 28:36] - 0.9).abs().max() <= LARGEST


def test_one_mask_serves_all_frames_and_a_frame_may_have_none():
    edited, original, mask = scene()
    same = composite(edited, original, mask[:1])
    assert torch.equal(same[1], composite(edited[1:], original[1:], mask[:1])[0])
    mask[0] = 0
    assert torch.equal(composite(edited, original, mask)[0], original[0])


def test_a_mask_over_everything_gives_the_edit():
    edited, original, mask = scene()
    assert torch.equal(composite(edited, original, torch.ones_like(mask)), edited)


def test_soft_masks_mix():
    edited, original, mask = scene()
    out = composite(edited, original, 0.5 * mask, feather=0, match_colour=False)
    inside = mask.bool()
    assert torch.allclose(out[inside], (edited + original)[inside] / 2, atol=FLOAT32_STEP)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (7, 130)])
def test_odd_sizes_and_a_single_frame(size):
    edited, original = torch.rand(2, 1, *size, 3)
    mask = torch.zeros(1, *size)
    mask[0, 0, 0] = 1
    out = composite(edited, original, mask, feather=9, grow=1)
    assert out.shape == original.shape and out.isfinite().all()
    beyond = 1 + 9 + 1
    assert torch.equal(out[:, :, beyond:], original[:, :, beyond:])
    assert RING < 9


def test_bad_input_is_told():
    edited, original, mask = scene()
    for arguments, said in [
        ((edited[:1], original, mask), "original: 2 frames of 51x37 with 3 channels, but edited has 1 frames"),
        ((edited, original, mask[:, :30]), "mask: is 51x30, but the images are 51x37"),
        ((edited, original, mask.repeat(2, 1, 1)), "nor one for each of the 2 frames"),
        ((edited, original, 0 * mask), "mask: is empty"),
        ((edited / 0, original, mask), "edited: it holds NaN"),
    ]:
        with pytest.raises(ValueError, match=said):
            composite(*arguments)
