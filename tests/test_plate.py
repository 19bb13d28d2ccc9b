"""Crop to a mask and stitch back: where the box lies, and that the plate stays the plate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from steadyedit.methods.plate.boxes import MARGIN, Crop, crop_of, cropped, extents, path, sizes
from steadyedit.methods.plate.stitch import interior, stitched
from steadyedit.methods.via.composite import composite
from tolerances import FLOAT32_STEP, assert_close
from torch.utils._python_dispatch import TorchDispatchMode


def plate(frames=9, height=150, width=211, size=(30, 22), empty=(), channels=3, start=(-8, 60), step=(17, 3)):
    """Noise, and the mask of a rectangle that wanders over it with a jitter, from over the left border."""
    generator = torch.Generator().manual_seed(3)
    mask = torch.zeros(frames, height, width)
    for i in range(frames):
        jitter = torch.randint(-2, 3, (2,), generator=generator).tolist()
        x, y = (start[a] + i * step[a] + jitter[a] for a in (0, 1))
        if i not in empty:
            mask[i, max(y, 0) : max(y + size[1], 0), max(x, 0) : max(x + size[0], 0)] = 1
    return torch.rand(frames, height, width, channels, generator=generator), mask


CASES = {
    "wanders over the border": {},
    "hidden for a while, and at both ends": {"empty": (0, 1, 4, 8)},
    "portrait": {"height": 231, "width": 90, "start": (20, -5), "step": (2, 25)},
    "nearly all of the plate": {"size": (200, 149), "start": (5, 1), "step": (1, 0)},
    "wider than the plate": {"height": 40, "width": 50, "size": (48, 30), "start": (1, 4), "step": (0, 0)},
    "one frame": {"frames": 1, "start": (60, 50)},
    "two frames": {"frames": 2, "start": (60, 50)},
}


def test_extents_are_those_of_the_pixels():
    _, mask = plate(frames=4, height=70, width=60, start=(-8, 30), empty=(2,))
    for found, frame in zip(extents(mask), mask, strict=True):
        places = [(x, y) for y in range(frame.shape[0]) for x in range(frame.shape[1]) if frame[y, x] >= 0.5]
        if not places:
            assert (found == -1).all()
            continue
        (xs, ys) = zip(*places, strict=True)
        assert found.tolist() == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


@pytest.mark.parametrize("motion", ["moving", "whole clip"])
@pytest.mark.parametrize("aspect", ["of the mask", "of the clip", "16:9", "9:16"])
@pytest.mark.parametrize("case", CASES)
def test_the_box_holds_the_mask_and_gives_the_plate_back_bit_for_bit(case, aspect, motion):
    images, mask = plate(**CASES[case])
    crop = crop_of(mask, len(images), aspect=aspect, motion=motion)
    assert crop.width % 16 == crop.height % 16 == 0 and len(crop.left) == len(crop.top) == len(images)
    for frame, (x1, y1, x2, y2) in enumerate(extents(mask)):
        left, top, right, bottom = crop.inside(frame)
        if x1 >= 0:
            assert left <= max(x1 - MARGIN, 0) and right >= min(x2 + MARGIN, crop.plate_width)
            assert top <= max(y1 - MARGIN, 0) and bottom >= min(y2 + MARGIN, crop.plate_height)
        # Beyond the plate only where the box is larger.
        assert crop.width >= crop.plate_width or right - left == crop.width
        assert crop.height >= crop.plate_height or bottom - top == crop.height
    if motion == "whole clip":
        assert len({*crop.left}) == len({*crop.top}) == 1
    taken = cropped(images, crop)
    assert taken.shape == (len(images), crop.height, crop.width, 3)
    x1, y1, x2, y2 = crop.inside(0)
    assert torch.equal(taken[0, y1 - crop.top[0] : y2 - crop.top[0], x1 - crop.left[0] : x2 - crop.left[0]],
                       images[0, y1:y2, x1:x2])
    for with_mask in (None, mask, cropped(mask[..., None], crop)[..., 0]):
        assert torch.equal(stitched(images, taken, crop, with_mask, feather=6), images)


def test_a_jittering_object_gets_a_calm_box():
    _, mask = plate(frames=40, width=900, size=(60, 40), start=(40, 60), step=(15, 0))
    crop = crop_of(mask, 40)
    middles = extents(mask)[:, [0, 2]].mean(1)
    assert np.abs(np.diff(crop.left, 2)).max() <= 1 < np.abs(np.diff(middles, 2)).max()
    assert np.abs(np.array(crop.left) + crop.width / 2 - middles).max() < 20, "it follows"
    still = crop_of(mask[:1].expand(40, -1, -1), 40)
    assert len({*still.left}) == 1


def test_the_way_is_the_least_of_its_equation():
    """Against a dense solution without bounds, and against other allowed ways where bounds hold it."""
    generator = np.random.default_rng(0)
    low = (50 + 10 * np.sin(np.arange(30) / 4) + generator.integers(-3, 4, 30)).astype(int)
    high, seen, s = low + 20, np.ones(30, dtype=bool), 3.0
    seen[10:14] = False
    first, second = np.diff(np.eye(30), axis=0), np.diff(np.eye(30), 2, axis=0)

    def cost(x, side):
        return (((x - (low + high - side) / 2)[seen] ** 2).sum() + s**2 * ((first @ x) ** 2).sum()
                + s**4 * ((second @ x) ** 2).sum())

    free = path(low, high, seen, 120, 1000, s)
    left = np.diag(seen.astype(float)) + s**2 * first.T @ first + s**4 * second.T @ second
    # 120 pixels of box in a plate of 1000: it would begin left of it.
    assert np.linalg.solve(left, seen * (low + high - 120) / 2).min() < 10 and free.min() >= 0
    right = path(low + 300, high + 300, seen, 120, 1000, s)
    assert np.abs(right - np.linalg.solve(left, seen * (low + high + 600 - 120) / 2)).max() <= 0.51
    tight = path(low, high, seen, 54, 1000, s)
    least, most = np.maximum(high + MARGIN - 54, 0), low - MARGIN
    assert ((tight >= least) & (tight <= most))[seen].all()
    for _ in range(300):
        other = np.clip(tight + generator.normal(0, 1, 30).cumsum() / 3, np.where(seen, least, 0),
                        np.where(seen, most, 900))
        assert cost(tight, 54) <= cost(other, 54) + 30, "but for the rounding to whole pixels"


@pytest.mark.parametrize("need, ratio, width, height, box, out", [
    ((100, 60), (100, 60), 0, 0, (112, 64), (112, 64)),
    ((100, 60), (16, 9), 0, 0, (112, 64), (112, 64)),
    ((96, 54), (16, 9), 0, 0, (96, 64), (96, 64)),
    ((100, 60), (1, 1), 832, 480, (104, 60), (832, 480)),
    ((50, 60), (1, 1), 832, 480, (104, 60), (832, 480)),
    ((1000, 700), (16, 9), 1024, 0, (1248, 702), (1024, 576)),
    ((100, 60), (9, 16), 0, 512, (108, 192), (288, 512)),
])  # fmt: skip
def test_sizes(need, ratio, width, height, box, out):
    assert sizes(need, ratio, width, height, 16) == (box, out)
    assert box[0] * out[1] == box[1] * out[0], "never distorted"


def reach_of(mask, feather):
    """Pixels within ``feather`` of a mask along the axes, by looking at every one."""
    found = torch.zeros_like(mask, dtype=torch.bool)
    for y, x in (mask > 0).nonzero().tolist():
        found[max(y - feather, 0) : y + feather + 1, max(x - feather, 0) : x + feather + 1] = True
    return found


@pytest.mark.parametrize("size", [{}, {"width": 128, "height": 96}, {"width": 48}])
@pytest.mark.parametrize("feather, match", [(0, False), (5, True), (16, True)])
def test_beyond_the_feather_it_is_the_plate_bit_for_bit(size, feather, match):
    images, mask = plate(empty=(4,))
    crop = crop_of(mask, len(images), **size)
    edited = torch.rand(cropped(images, crop).shape, generator=torch.Generator().manual_seed(1))
    out = stitched(images, edited, crop, mask, feather, match)
    assert torch.equal(out[4], images[4])
    for i in (0, 3, 8):
        near = reach_of(mask[i], feather)
        assert torch.equal(out[i][~near], images[i][~near]) and not torch.equal(out[i][near], images[i][near])
        if not size and not match:
            x, y = crop.left[i], crop.top[i]
            inside = mask[i, y : y + crop.height, x : x + crop.width] > 0
            assert torch.equal(out[i, y : y + crop.height, x : x + crop.width][inside], edited[i][inside])
    whole = stitched(images, edited, crop, None, feather, match)
    for i in range(len(images)):
        outside = torch.ones(images.shape[1:3], dtype=torch.bool)
        x1, y1, x2, y2 = crop.inside(i)
        outside[y1:y2, x1:x2] = False
        assert torch.equal(whole[i][outside], images[i][outside]) and not torch.equal(whole[i], images[i])


def test_at_its_own_size_it_is_the_composite():
    images, mask = plate(start=(30, 60), step=(4, 0))
    crop = crop_of(mask, len(images), padding=1.0)
    edited = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    assert_close(stitched(images, cropped(edited, crop), crop, mask, 8), composite(edited, images, mask, 8, 0, False))


def test_the_seam_ends_within_the_box_and_never_at_the_plates_edge():
    crop = Crop((0,), (10,), 50, 40, 50, 40, 90, 200)
    inner = interior(crop, 0, 6)
    assert inner[6:-6, :-6].all() and inner.sum() == (40 - 12) * (50 - 6)


def test_alpha_stays_the_plates():
    images, mask = plate(channels=4)
    crop = crop_of(mask, len(images))
    out = stitched(images, torch.rand(len(images), crop.height, crop.width, 3), crop, mask)
    assert torch.equal(out[..., 3], images[..., 3]) and not torch.equal(out, images)


def test_an_enlarged_edit_fits_too():
    images, mask = plate()
    crop = crop_of(mask, len(images))
    gray = torch.full((len(images), 2 * crop.height, 2 * crop.width, 3), 0.5)
    out = stitched(images, gray, crop, mask, 4)
    assert (out[mask > 0] - 0.5).abs().max() < FLOAT32_STEP


class Largest(TorchDispatchMode):
    """Bytes of the largest tensors that were made."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        known = {t.untyped_storage().data_ptr() for t in args if isinstance(t, torch.Tensor)}
        if isinstance(out, torch.Tensor) and out.untyped_storage().data_ptr() not in known:
            self.made.append(out.untyped_storage().nbytes())
        return out


def test_memory_beside_the_result_does_not_grow_with_the_clip():
    images, mask = plate(frames=10)
    crop = crop_of(mask, 10, width=160, height=128)
    edited = torch.rand(10, 128, 160, 3)
    with Largest() as seen:
        stitched(images, edited, crop, mask, 8, True)
    seen.made.sort()
    assert seen.made[-1] == images.numel() * 4
    # Two: the mask as a check returns it is one number a pixel of the clip, a third of a clip.
    assert seen.made[-6] <= 2 * images[0].numel() * 4 * 3


REFUSED = {
    "empty": (lambda: crop_of(torch.zeros(3, 50, 50), 3), "mask: is empty in every frame"),
    "size": (lambda: crop_of(torch.ones(1, 50, 50), 3, width=100), "width: 100 is no multiple of 16; use 96 or 112"),
    "frames": (lambda: stitched(torch.zeros(2, 50, 50, 3), torch.zeros(1, 16, 16, 3), SMALL), "edited: has 1 frames"),
    "plate": (lambda: stitched(torch.zeros(2, 50, 60, 3), torch.zeros(2, 16, 16, 3), SMALL), "original: the crop was"),
    "count": (lambda: stitched(torch.zeros(3, 50, 50, 3), torch.zeros(3, 16, 16, 3), SMALL), "original: has 3 frames"),
    "shape": (lambda: stitched(torch.zeros(2, 50, 50, 3), torch.zeros(2, 16, 40, 3), SMALL), "edited: is 40x16"),
    "mask": (lambda: stitched(torch.zeros(2, 50, 50, 3), torch.zeros(2, 16, 16, 3), SMALL, torch.ones(1, 9, 30)),
             "mask: is 30x9"),
    "nan": (lambda: stitched(torch.zeros(2, 50, 50, 3), torch.full((2, 16, 16, 3), torch.nan), SMALL),
            "edited: it holds NaN"),
    "channels": (lambda: stitched(torch.zeros(2, 50, 50, 3), torch.zeros(2, 16, 16, 4), SMALL), "edited: has 4 chan"),
}  # fmt: skip
SMALL = Crop((3, 4), (5, 5), 16, 16, 16, 16, 50, 50)


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_told_in_one_sentence(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
