"""The small parts under tuning: hashes and preview pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from steadyedit.methods.content_hash import content_hash
from steadyedit.methods.preview import (
    INK,
    LINE,
    PANEL,
    TEXT,
    latent_to_rgb,
    loss_curve,
    middle_frame,
    rough_picture,
    smoothed,
    training_preview,
)


def test_equal_content_has_an_equal_hash():
    def value():
        return [{"b": torch.arange(3), "a": (1, 2.5, None, "x")}, True]

    assert content_hash(value()) == content_hash(value()) and len(content_hash(value())) == 64
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1})
    assert content_hash(torch.arange(6).view(2, 3).T) == content_hash(torch.arange(6).view(2, 3).T.contiguous())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(4, dtype=torch.bfloat16), torch.zeros(4, dtype=torch.float16)),
        (1, True),
        (1, 1.0),
        ("1", 1),
        ([1, [2]], [[1], 2]),
        ({"a": 1}, {"a": 2}),
        (None, "None"),
    ],
)
def test_different_content_has_another_hash(one, other):
    assert content_hash(one) != content_hash(other)


def test_content_that_can_not_be_read_has_no_hash():
    assert content_hash([{"control": object()}]) is None


def test_latents_become_colours():
    red = torch.zeros(4, 2, 3)
    red[0], red[2], red[3] = 2.0, -1.5, -0.5
    colours = latent_to_rgb(red)
    assert colours.shape == (2, 3, 3) and colours.dtype == torch.uint8
    assert (colours[..., 0] > colours[..., 2]).all()
    assert latent_to_rgb(torch.full((16, 2, 3), float("nan"))).shape == (2, 3, 3)


def test_smoothing_is_a_running_mean():
    assert smoothed([4.0, 2.0, 0.0, 6.0], window=2) == [4.0, 3.0, 1.0, 3.0]
    assert smoothed([]) == []


@pytest.mark.parametrize("losses", [[], [0.0], [1.0], [0.0, 0.0], [3.0, 2.0, 1.0]])
def test_any_curve_is_drawn(losses):
    assert loss_curve(losses, total=3).width == PANEL


def test_the_numbers_are_large_enough_to_read():
    """Dark rows of the text below the axis: a node shows the picture at about its own size."""
    picture = torch.tensor(list(loss_curve([1.0], total=500).convert("L").tobytes())).reshape(-1, PANEL)
    rows = (picture[-24:] < 120).any(1)
    assert rows.sum() >= 10


@pytest.mark.parametrize("size", [(1, 1), (4, 64), (9, 5)])
def test_any_shape_is_shown(size):
    curve = loss_curve([1.0], 10)
    shown = training_preview(rough_picture(torch.zeros(1, 4, *size)), [1.0], 10)
    assert shown.width == PANEL and shown.height == curve.height + max(1, round(size[0] * PANEL / max(size)))


def test_the_middle_frame_is_shown():
    """Of five frames the third, of a video model's latent too."""
    frames = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 4, 2, 2)
    assert middle_frame(frames).equal(frames[2:3])
    video = frames.movedim(0, 1)[None]
    assert middle_frame(video).equal(video[:, :, 2:3])
    assert rough_picture(middle_frame(video)).tobytes() == rough_picture(middle_frame(frames)).tobytes()


def test_the_sample_stands_above_the_curve():
    red = training_preview(Image.new("RGB", (4, 4), (255, 0, 0)), [1.0], 10)
    assert red.getpixel((PANEL // 2, PANEL // 2)) == (255, 0, 0) != red.getpixel((PANEL // 2, PANEL + 60))


def test_numbers_of_the_loss_are_apart():
    """The highest loss at the left, the last one at the right, in their colours, even with three digits each."""
    picture = np.array(loss_curve([0.0987] * 24 + [0.0876], 6000).convert("RGB")).astype(int)
    band = picture[: 8 + TEXT]
    at = {ink: np.nonzero((np.abs(band - ink) < 40).all(-1).any(0))[0] for ink in (INK, LINE)}
    assert at[INK].max() + 10 < at[LINE].min() and at[LINE].max() < PANEL
    step = np.nonzero((np.abs(picture[-TEXT:] - INK) < 40).all(-1))
    assert len(step[0]) and step[1].max() < PANEL - 4
