"""VIDEO values: from the file where there is one, from the tensors where not, with equal results."""

from __future__ import annotations

from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from steadyedit.video.frames_of import frames_of
from steadyedit.video.read import read_clip
from tolerances import RUN
from video_files import make_video, number_of, numbered


class InFile:
    """A host's VIDEO of a file; reading it whole would be a mistake."""

    def __init__(self, path, window=None):
        self.path = path
        if window:
            self.get_active_trim_window = lambda: window

    def get_stream_source(self):
        return str(self.path)

    def get_components(self):
        raise AssertionError("all frames were asked for")


class Encodes:
    """The host's base class: asked for a stream, it encodes."""

    def get_stream_source(self):
        raise AssertionError("the tensors were encoded")


class InMemory(Encodes):
    """A host's VIDEO of tensors."""

    def __init__(self, images, rate=Fraction(10), audio=None, alpha=None):
        self.parts = SimpleNamespace(images=images, frame_rate=rate, audio=audio, alpha=alpha)

    def get_components(self):
        return self.parts


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"start": 5, "count": 4, "stride": 3},
        {"size": (16, 16)},
        {"size": (16, 48), "fit": "pad", "background": (1.0, 1.0, 1.0)},
        {"size": (24, 16), "fit": "stretch"},
        {"size": 16, "multiple": 8},
        {"start": 28, "count": 9},
    ],
)
def test_file_and_tensors_agree(tmp_path, settings):
    images = [numbered(i, 32, 40) for i in range(30)]
    path = make_video(tmp_path / "clip.mov", images, 10, "png", "rgb24", sound=True)
    whole = read_clip(path)
    filed = frames_of(InFile(path), **settings)
    held = frames_of(InMemory(whole.frames, whole.fps, whole.audio), **settings)
    assert held.fps == filed.fps
    assert held.frames.shape == filed.frames.shape
    assert (held.frames - filed.frames).abs().max() < 1.5 / 255
    lengths = [clip.audio["waveform"].shape[-1] for clip in (held, filed)]
    assert abs(lengths[0] - lengths[1]) <= 1
    shared = min(lengths)
    apart = held.audio["waveform"][..., :shared] - filed.audio["waveform"][..., :shared]
    assert apart.abs().max() < RUN


def test_a_trimmed_file_starts_at_its_window(tmp_path):
    path = make_video(tmp_path / "clip.mp4", [numbered(i) for i in range(30)])
    clip = frames_of(InFile(path, (0.5, 1.0)), start=1)
    assert [number_of(frame) for frame in clip.frames] == list(range(6, 15))


@pytest.mark.parametrize("separate", [False, True])
def test_alpha_shows_the_background(separate):
    """Newer hosts keep alpha apart from the colours, others beside them."""
    colour, alpha = torch.ones(3, 8, 8, 3), torch.full((3, 8, 8, 1), 0.25)
    video = InMemory(colour, alpha=alpha) if separate else InMemory(torch.cat([colour, alpha], -1))
    clip = frames_of(video, start=1, background=(0.0, 0.5, 1.0))
    assert torch.allclose(clip.frames, torch.tensor([0.25, 0.625, 1.0]).expand(2, 8, 8, 3))


@pytest.mark.parametrize(
    ("video", "settings", "kind", "sentence"),
    [
        (torch.zeros(3, 8, 8, 3), {}, TypeError, "^video: expected a VIDEO, but got Tensor"),
        (InMemory(torch.zeros(0, 8, 8, 3)), {}, ValueError, "^video: the clip has zero frames"),
        (InMemory(torch.zeros(3, 8, 8, 3)), {"start": 3}, ValueError, "^video: start 3 is past the end; .* 3 frames"),
        (InMemory(torch.zeros(3, 8, 8, 3)), {"stride": 0}, ValueError, "^stride: at least 1"),
        (InFile("/nowhere/clip.mp4"), {}, FileNotFoundError, "^clip.mp4: there is no such video file"),
    ],
)
def test_what_is_no_clip_is_said(video, settings, kind, sentence):
    with pytest.raises(kind, match=sentence):
        frames_of(video, **settings)


def test_the_input_tensors_are_not_changed():
    images = torch.rand(4, 8, 8, 3)
    before = images.clone()
    frames_of(InMemory(images), size=(4, 4)).frames.zero_()
    assert torch.equal(images, before)
