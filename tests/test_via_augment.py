"""VIA's augmentation: the paper's ranges, measured on what the warp really did, and one map for both images."""

from __future__ import annotations

import math

import torch
from steadyedit.methods.via.augment import AffineRanges, random_maps, warped
from tolerances import FLOAT64_CHAIN, NETWORK, RUN

SIZE = 48
COUNT = 120


def ramps(height: int = SIZE, width: int = SIZE):
    """An image that says in every pixel where it is: red its x, green its y."""
    y, x = torch.meshgrid(torch.arange(height).float(), torch.arange(width).float(), indexing="ij")
    return torch.stack([x, y, torch.ones_like(x)], -1)[None]


def positions(image):
    """Where every pixel of a warped ramp came from: [height, width, 2]."""
    return image[..., :2]


def recovered(maps):
    """(rotation, shear, crop, shift of the centre) of each map, fitted to the middle of a warped image, which no
    mirrored border reaches."""
    found = []
    for result in warped(ramps(), maps)[0]:
        source = positions(result).reshape(-1, 2).double()
        target = positions(ramps()[0]).reshape(-1, 2).double()
        inner = ((target - (SIZE - 1) / 2).abs() < SIZE / 4).all(1)
        design = torch.cat([source[inner], torch.ones(int(inner.sum()), 1)], 1)
        fit = torch.linalg.lstsq(design, target[inner]).solution.T
        assert (design @ fit.T - target[inner]).abs().max() < 0.02
        scale = torch.linalg.det(fit[:, :2]).sqrt()
        angle = torch.atan2(fit[1, 0], fit[0, 0])
        turn = torch.tensor([[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]])
        shear = (turn.T @ fit[:, :2] / scale)[0, 1]
        centre = torch.full((2,), (SIZE - 1) / 2, dtype=torch.float64)
        shift = fit[:, :2] @ centre + fit[:, 2] - centre
        found.append((math.degrees(angle), math.degrees(math.atan(shear)), 1 / scale, *(shift / SIZE)))
    return torch.tensor(found, dtype=torch.float64)


def test_the_ranges_are_the_papers():
    rotation, shear, crop, _, _ = recovered(random_maps(COUNT, SIZE, SIZE, seed=1)).T
    for values, limit in ((rotation, 5), (shear, 10)):
        assert values.abs().max() <= limit + 0.01
        assert values.max() > 0.9 * limit and values.min() < -0.9 * limit
    assert 0.75 - RUN <= crop.min() < 0.77 and 0.98 < crop.max() <= 1 + RUN
    assert abs(rotation.mean()) < 1 and abs(shear.mean()) < 2 and abs(crop.mean() - 0.875) < 0.02


def test_translation_is_within_five_percent_of_each_side():
    """Measured without the crop, whose place would hide it."""
    *_, x, y = recovered(random_maps(COUNT, SIZE, SIZE, seed=2, ranges=AffineRanges(crop=(1.0, 1.0)))).T
    for shift in (x, y):
        assert shift.abs().max() <= 0.05 + NETWORK
        assert shift.max() > 0.045 and shift.min() < -0.045


def test_the_crop_lies_inside_the_image():
    maps = random_maps(COUNT, SIZE, SIZE, seed=3, ranges=AffineRanges(rotation=0, translation=0, shear=0))
    corners = torch.tensor([[-0.5, -0.5, 1], [SIZE - 0.5, SIZE - 0.5, 1]], dtype=torch.float64).T
    back = torch.linalg.inv(maps) @ corners
    assert back[:, :2].min() >= -0.5 - FLOAT64_CHAIN and back[:, :2].max() <= SIZE - 0.5 + FLOAT64_CHAIN
    assert back[:, 0, 0].min() < 0 and back[:, 0, 1].max() > SIZE - 1


def test_source_and_edit_stay_aligned_to_a_tenth_of_a_pixel():
    """The edit has other colours but shows every place where the source shows it."""
    source = ramps(40, 64)
    edit = torch.cat([3 * source[..., :1] + 5, 100 - source[..., 1:2], torch.zeros_like(source[..., :1])], -1)
    both = warped(torch.cat([source, edit]), random_maps(20, 40, 64, seed=4))
    x, y = both[0][..., 0], both[0][..., 1]
    assert ((both[1][..., 0] - 5) / 3 - x).abs().max() < 0.1
    assert (100 - both[1][..., 1] - y).abs().max() < 0.1
    # and a warp it is
    assert (x - source[..., 0]).abs().max() > 1


def test_outside_is_the_mirrored_border():
    """A shift by known pixels repeats the border pixels in reverse order."""
    shift = torch.eye(3, dtype=torch.float64)[None].clone()
    shift[0, 0, 2] = 3
    row = warped(ramps(), shift)[0, 0, 0, :, 0]
    assert torch.allclose(row[:6], torch.tensor([3.0, 2, 1, 0, 1, 2]), atol=NETWORK)


def test_a_seed_is_a_set_of_maps():
    assert random_maps(5, 32, 32, seed=7).equal(random_maps(5, 32, 32, seed=7))
    assert not random_maps(5, 32, 32, seed=7).equal(random_maps(5, 32, 32, seed=8))


def test_type_and_channels_stay():
    images = torch.rand(2, 16, 24, 3, dtype=torch.float16)
    assert warped(images, random_maps(3, 16, 24, seed=0)).shape == (2, 3, 16, 24, 3)
    assert warped(images, random_maps(3, 16, 24, seed=0)).dtype == torch.float16
