"""Animated WebP, which FFmpeg does not read: its pictures, durations and transparency."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, features
from steadyedit.video.read import EVERY, FINEST, read_clip
from video_files import number_of, numbered

pytestmark = pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")


def make(path, images, durations, **settings):
    first, *rest = map(Image.fromarray, images)
    first.save(path, save_all=True, append_images=rest, duration=durations, lossless=True, **settings)
    return path


def test_pictures_and_their_rate(tmp_path):
    path = make(tmp_path / "a.webp", [numbered(i) for i in range(10)], 40)
    for source in (path, io.BytesIO(path.read_bytes())):
        clip = read_clip(source)
        assert [number_of(frame) for frame in clip.frames] == list(range(10))
        assert clip.fps == 25 and clip.audio is None and clip.notes == ()
    assert [number_of(frame) for frame in read_clip(path, 3, 2, 3).frames] == [3, 6]


def test_each_picture_lasts_as_long_as_the_file_says(tmp_path):
    path = make(tmp_path / "a.webp", [numbered(i) for i in range(5)], [40, 40, 200, 40, 80])
    clip = read_clip(path, timing=FINEST)
    assert clip.fps == 25 and [number_of(frame) for frame in clip.frames] == [0, 1, 2, 2, 2, 2, 2, 3, 4, 4]
    assert "variable frame rate" in clip.notes[0]
    assert [number_of(frame) for frame in read_clip(path, timing=EVERY).frames] == [0, 1, 2, 3, 4]
    # Browsers show what says 0 for a tenth of a second.
    assert read_clip(make(tmp_path / "b.webp", [numbered(i) for i in range(3)], 0)).fps == 10


def test_transparency_shows_the_background(tmp_path):
    images = [np.dstack([numbered(i), np.full((32, 32), 255 * (i % 2), np.uint8)]) for i in range(4)]
    frames = read_clip(make(tmp_path / "a.webp", images, 100, exact=True), background=(1.0, 1.0, 1.0)).frames
    assert (frames[::2] == 1).all() and [number_of(frame) for frame in frames[1::2]] == [1, 3]


def test_a_damaged_one_is_told(tmp_path):
    path = make(tmp_path / "a.webp", [numbered(i) for i in range(10)], 40)
    for part in (25, 60, len(path.read_bytes()) // 2):
        (tmp_path / "b.webp").write_bytes(path.read_bytes()[:part])
        with pytest.raises(ValueError, match="^b.webp: this is no readable video; it is cut short"):
            read_clip(tmp_path / "b.webp")
