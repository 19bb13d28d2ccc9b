"""Reading: every kind of file on one rate, rotated, fitted, cut to the range, with its sound."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from steadyedit.video.probe import OLDEST, probe
from steadyedit.video.read import iter_frames, read_clip
from video_files import SIDE, make_video, number_of, numbered, set_display_matrix

KINDS = {
    "mp4": ("libx264", "yuv420p"),
    "mov": ("png", "rgb24"),
    "webm": ("libvpx-vp9", "yuv420p"),
    "gif": ("gif", "gray"),
    "mkv": ("libx264", "yuv420p"),
    "avi": ("mpeg4", "yuv420p"),
}


def numbers(clip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fps", [10, Fraction(30000, 1001)])
def test_every_kind_gives_each_frame_once(tmp_path, kind, fps):
    codec, pixels = KINDS[kind]
    rate = round(fps) if kind == "gif" else fps
    path = make_video(tmp_path / f"clip.{kind}", [numbered(i) for i in range(20)], rate, codec, pixels)
    clip = read_clip(path)
    assert numbers(clip) == list(range(20))
    assert clip.fps == rate
    assert clip.frames.shape == (20, SIDE, SIDE, 3) and clip.frames.dtype == torch.float32
    assert probe(path).frames == 20


@pytest.mark.parametrize("kind", ["mp4", "webm", "gif"])
@pytest.mark.parametrize(
    ("start", "count", "stride", "expected"),
    [
        (0, 3, 1, [0, 1, 2]),
        (7, 4, 3, [7, 10, 13, 16]),
        (25, 0, 2, [25, 27, 29]),
        (28, 10, 1, [28, 29]),
        (29, 1, 5, [29]),
    ],
)
def test_range_and_stride(tmp_path, kind, start, count, stride, expected):
    codec, pixels = KINDS[kind]
    path = make_video(tmp_path / f"c.{kind}", [numbered(i) for i in range(30)], 10, codec, pixels, keyframes=8)
    clip = read_clip(path, start, count, stride)
    assert numbers(clip) == expected
    assert clip.fps == Fraction(10, stride)


def test_a_jump_lands_on_the_same_frames_as_reading_from_the_beginning(tmp_path):
    images = [numbered(i) for i in range(160)]
    path = make_video(tmp_path / "long.mp4", images, 10, keyframes=24)
    whole = read_clip(path).frames
    for start in (0, 11, 23, 24, 25, 100, 159):
        assert torch.equal(read_clip(path, start, 1).frames[0], whole[start]), start


def test_thousands_of_frames_are_not_decoded_for_a_few(tmp_path, monkeypatch):
    path = make_video(tmp_path / "long.mp4", [numbered(i) for i in range(1200)], 30, keyframes=60)
    import steadyedit.video.read as read

    seen, decode = [], read.decoded
    monkeypatch.setattr(
        read, "decoded", lambda *streams: (seen.append(frame.pts) or frame for frame in decode(*streams))
    )
    clip = read_clip(path, start=1000, count=4, stride=2)
    assert numbers(clip) == [number % 40 for number in (1000, 1002, 1004, 1006)]
    assert len(seen) < 100


def test_frames_come_one_by_one(tmp_path):
    path = make_video(tmp_path / "clip.mp4", [numbered(i) for i in range(12)])
    frames = iter_frames(path, stride=4)
    assert next(frames).dtype == np.uint8
    assert len(list(frames)) == 2


def test_variable_rate_follows_the_clock(tmp_path):
    """Mean rate 10: a frame that stays for 500 ms fills five places, a burst of 50 ms shares them."""
    times = [0, 100, 200, 700, 750, 800, 850, 900, 1000, 1100]
    path = make_video(tmp_path / "phone.mp4", [numbered(i) for i in range(10)], 10, times=times)
    clip = read_clip(path)
    seconds = probe(path).end - probe(path).begin
    assert abs(clip.seconds - float(seconds)) <= 0.5 / float(clip.fps)
    for place, number in enumerate(numbers(clip)):
        middle = (place + Fraction(1, 2)) / clip.fps * 1000
        assert number == max(i for i, time in enumerate(times) if time <= middle), place


@pytest.mark.parametrize(
    ("matrix", "turn"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),  # a phone held upright: a quarter turn clockwise
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((-1, 0, 0, 1), np.fliplr),  # a mirrored front camera
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_rotation_and_mirroring(tmp_path, matrix, turn):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16, :16] = 255  # one bright corner tells all eight positions apart
    path = set_display_matrix(make_video(tmp_path / "phone.mp4", [image] * 3), *matrix)
    frame = read_clip(path).frames[0].numpy()
    expected = turn(image)
    assert frame.shape == expected.shape
    assert np.abs(frame * 255 - expected).mean() < 4


@pytest.mark.parametrize(("kind", "codec", "pixels"), [("webm", "libvpx-vp9", "yuva420p"), ("mov", "png", "rgba")])
def test_alpha_shows_the_background(tmp_path, kind, codec, pixels):
    image = np.zeros((32, 32, 4), np.uint8)
    image[..., 0] = 255
    image[:, :16, 3] = 255
    path = make_video(tmp_path / f"sprite.{kind}", [image] * 3, 10, codec, pixels)
    for background in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        frame = read_clip(path, background=background).frames[1]
        assert (frame[16, 4] - torch.tensor([1.0, 0.0, 0.0])).abs().max() < 0.05
        assert (frame[16, 28] - torch.tensor(background)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({}, (47, 63)),
        ({"multiple": 8}, (40, 56)),
        ({"size": 24}, (24, 32)),
        ({"size": 24, "multiple": 8}, (24, 32)),
        ({"size": (16, 16)}, (16, 16)),
        ({"size": (16, 24), "fit": "stretch"}, (24, 16)),
        ({"size": (32, 32), "fit": "pad"}, (32, 32)),
        ({"size": (128, 96)}, (96, 128)),
    ],
)
def test_odd_sizes_are_fitted(tmp_path, settings, shape):
    path = make_video(tmp_path / "odd.mov", [np.full((47, 63, 3), 200, np.uint8)] * 2, 10, "png", "rgb24")
    frames = read_clip(path, **settings).frames
    assert tuple(frames.shape[1:3]) == shape
    assert (frames[0, shape[0] // 2] * 255 - 200).abs().max() <= 1
    if settings.get("fit") == "pad":
        assert frames[0, 0].max() == 0


def test_one_frame(tmp_path):
    clip = read_clip(make_video(tmp_path / "still.gif", [numbered(3)], 10, "gif", "gray"))
    assert numbers(clip) == [3]
    clip = read_clip(make_video(tmp_path / "still.mp4", [numbered(3)], 10))
    assert numbers(clip) == [3] and clip.fps == 10


@pytest.mark.parametrize("kind", ["mp4", "webm", "mkv"])
@pytest.mark.parametrize(("start", "count", "stride"), [(0, 0, 1), (8, 20, 1), (25, 5, 2)])
def test_sound_is_cut_to_the_range_and_stays_in_step(tmp_path, kind, start, count, stride):
    codec, pixels = KINDS[kind]
    images = [numbered(i) for i in range(40)]
    path = make_video(tmp_path / f"talk.{kind}", images, 10, codec, pixels, sound=True, keyframes=6)
    clip = read_clip(path, start, count, stride)
    rate, wave = clip.audio["sample_rate"], clip.audio["waveform"][0, 0]
    assert rate == 48000
    assert abs(len(wave) / rate - clip.seconds) < 0.03
    # The tone sounds while the second's first half lasts, on the clock of the whole file.
    time = start / 10 + torch.arange(len(wave)) / rate
    sounding = (time % 1) < 0.5
    far_from_edge = ((time % 0.5) > 0.03) & ((time % 0.5) < 0.47)
    # frame-wise loudness, 5 ms
    loud = torch.nn.functional.max_pool1d(wave.abs()[None], 241, 1, 120)[0] > 0.2
    assert (loud == sounding)[far_from_edge].float().mean() > 0.99


def test_a_trim_window_is_the_clip(tmp_path):
    path = make_video(tmp_path / "talk.mp4", [numbered(i) for i in range(40)], 10, sound=True)
    clip = read_clip(path, start=2, window=(1.0, 1.5))
    assert numbers(clip) == list(range(12, 25))
    assert abs(clip.audio["waveform"].shape[-1] / 48000 - 1.3) < 0.01
    with pytest.raises(ValueError, match="start 15 is past the end; the clip has 15 frames"):
        read_clip(path, start=15, window=(1.0, 1.5))


@pytest.mark.parametrize(("window", "stride", "frames"), [((1.0, 1.5), 1, 15), ((3.0, 0.0), 1, 10), ((0.5, 2.0), 3, 7),
                                                          ((3.0, 5.0), 1, 10)])  # fmt: skip
def test_a_trim_window_asks_for_the_memory_of_its_own_frames(tmp_path, monkeypatch, window, stride, frames):
    path = make_video(tmp_path / "long.mp4", [numbered(i) for i in range(40)], 10)
    free, told = 4 * 3 * SIDE**2 * frames, []
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=free))
    clip = read_clip(path, stride=stride, window=window, progress=lambda read, whole: told.append((read, whole)))
    assert len(clip.frames) == frames and told == [(i + 1, frames) for i in range(frames)]
    free -= 1
    with pytest.raises(MemoryError, match=r"long\.mp4: the frames asked for need"):
        read_clip(path, stride=stride, window=window)


def test_binary_files_read_like_paths(tmp_path):
    path = make_video(tmp_path / "clip.webm", [numbered(i) for i in range(9)], 10, "libvpx-vp9", sound=True)
    held, filed = read_clip(io.BytesIO(path.read_bytes()), 3), read_clip(path, 3)
    assert torch.equal(held.frames, filed.frames)
    assert torch.equal(held.audio["waveform"], filed.audio["waveform"])


def test_progress_counts_and_may_cancel(tmp_path):
    path = make_video(tmp_path / "clip.mp4", [numbered(i) for i in range(10)])
    seen = []
    read_clip(path, 2, 0, 2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_clip(path, progress=cancel)


def test_a_pyav_that_shifts_colours_is_told(tmp_path, monkeypatch):
    path = make_video(tmp_path / "a.mp4", [numbered(i) for i in range(3)])
    assert not any("PyAV" in note for note in probe(path).notes)
    monkeypatch.setattr(av, "__version__", "16.1.0")
    assert "PyAV 16.1.0 shifts colours" in " ".join(probe(path).notes)
    floor = next(line for line in (Path(__file__).parents[1] / "requirements.txt").read_text().split() if "av>" in line)
    assert floor == f"av>={OLDEST}"
