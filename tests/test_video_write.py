"""Writing: what was put in comes out, whole files only."""

from __future__ import annotations

import subprocess
import sys
from fractions import Fraction

import av
import pytest
import torch
from steadyedit.toyworld import render, sample_scene
from steadyedit.video.clip import as_rate
from steadyedit.video.read import read_clip
from steadyedit.video.write import write_clip


def tone(seconds: float, channels: int = 2, rate: int = 48000) -> dict:
    time = torch.arange(int(seconds * rate)) / rate
    return {"waveform": (0.4 * torch.sin(2 * torch.pi * 220 * time)).expand(1, channels, -1), "sample_rate": rate}


def smooth(frames: int, height: int, width: int) -> torch.Tensor:
    """Slow colour ramps: what 4:2:0 and h264 keep."""
    axes = torch.meshgrid(*(torch.linspace(0, 1, n) for n in (frames, height, width)), indexing="ij")
    return torch.stack(axes, -1) * 0.8 + 0.1


@pytest.mark.parametrize("fps", [8, 12.5, Fraction(24000, 1001), 29.97002997])
@pytest.mark.parametrize("channels", [1, 2])
def test_round_trip(tmp_path, fps, channels):
    frames = smooth(13, 64, 96)
    length = 13 / float(fps)
    path = write_clip(tmp_path / "new" / "clip.mp4", frames, fps, tone(length + 1, channels))
    clip = read_clip(path)
    assert clip.fps == as_rate(fps)
    assert (clip.frames - frames).abs().mean() < 0.01
    assert clip.audio["waveform"].shape[1] == channels
    assert abs(clip.audio["waveform"].shape[-1] / 48000 - length) < 0.03
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "h264"
        assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
    assert [entry.name for entry in path.parent.iterdir()] == ["clip.mp4"]


def test_equal_frames_give_equal_files(tmp_path):
    """Also where x264's rows end in the middle of its widest registers, and whatever lies in memory behind them."""
    frames = render(sample_scene(3, "demo", frames=11, size=96)).frames
    files, stirred = set(), []
    for size in range(30):
        stirred.append(torch.rand(1000 * size + 10))
        files.add(write_clip(tmp_path / "clip.mp4", frames, 8).read_bytes())
    assert len(files) == 1


@pytest.mark.parametrize("colour", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (0.5, 0.5, 0.5), (1, 1, 1), (0, 0, 0)])
def test_colours_survive(tmp_path, colour):
    frames = torch.tensor(colour, dtype=torch.float32).expand(3, 32, 32, 3)
    back = read_clip(write_clip(tmp_path / "c.mp4", frames, 10)).frames
    assert (back - frames).abs().max() < 0.02


def test_odd_sizes_grow_by_a_repeated_edge(tmp_path):
    frames = smooth(3, 33, 47)
    back = read_clip(write_clip(tmp_path / "c.mp4", frames, 10)).frames
    assert back.shape == (3, 34, 48, 3)
    assert (back[:, :33, :47] - frames).abs().mean() < 0.01


@pytest.mark.parametrize("rate", [44100, 22050, 11000, 192000])
def test_any_sample_rate(tmp_path, rate):
    path = write_clip(tmp_path / "c.mp4", smooth(20, 32, 32), 10, tone(2.0, rate=rate))
    audio = read_clip(path).audio
    assert abs(audio["waveform"].shape[-1] / audio["sample_rate"] - 2.0) < 0.06


def test_seven_channels_become_one(tmp_path):
    path = write_clip(tmp_path / "c.mp4", smooth(10, 32, 32), 10, tone(1.0, channels=7))
    assert read_clip(path).audio["waveform"].shape[1] == 1


def test_frames_may_come_one_by_one(tmp_path):
    frames = smooth(9, 32, 32)
    path = write_clip(tmp_path / "c.mp4", (frame for frame in frames), 10)
    assert len(read_clip(path).frames) == 9
    with pytest.raises(ValueError, match="^audio: sound needs a tensor of frames"):
        write_clip(tmp_path / "d.mp4", iter(frames), 10, tone(1))


@pytest.mark.parametrize(
    ("frames", "fps", "audio", "sentence"),
    [
        (torch.zeros(0, 8, 8, 3), 10, None, "^frames: a clip of zero frames cannot be written"),
        (torch.full((2, 8, 8, 3), torch.nan), 10, None, "^frames: the pictures hold values that are not finite"),
        (torch.zeros(2, 8, 8, 4), 10, None, r"^frames: expected equal frames \[H, W, 3\]"),
        (torch.zeros(2, 8, 8, 3), 0, None, "^fps: a rate above 0 is needed, but got 0"),
        (torch.zeros(2, 8, 8, 3), float("nan"), None, "^fps: a rate above 0"),
        (torch.zeros(2, 8, 8, 3), 10, {"waveform": torch.zeros(2, 9), "sample_rate": 48000}, "^audio: expected a"),
        (
            torch.zeros(2, 8, 8, 3),
            10,
            {"waveform": torch.full((1, 1, 9600), torch.nan), "sample_rate": 48000},
            "^audio",
        ),
    ],
)
def test_bad_clips_leave_the_old_file(tmp_path, frames, fps, audio, sentence):
    path = tmp_path / "c.mp4"
    path.write_bytes(b"the old one")
    with pytest.raises(ValueError, match=sentence):
        write_clip(path, frames, fps, audio)
    assert path.read_bytes() == b"the old one"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_cancel_in_the_middle_leaves_nothing(tmp_path):
    def frames():
        yield from smooth(5, 32, 32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "c.mp4", frames(), 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to stand for a full disk")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path):
    """In a process whose files may not grow past 40 kB, as a disk that is full at that point."""
    code = f"""
import resource, torch
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
from steadyedit.video.write import write_clip
try:
    write_clip({str(tmp_path / "c.mp4")!r}, torch.rand(60, 128, 128, 3), 10)
except OSError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "c.mp4: could not be saved" in said and "nothing was left behind" in said
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="c.mp4: could not be saved"):
        write_clip(tmp_path / "file" / "c.mp4", smooth(2, 8, 8), 10)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (29.97002997, Fraction(30000, 1001)), (23.976023976, Fraction(24000, 1001)), (25, 25), (12.5, Fraction(25, 2)),
        (29.97, Fraction(30000, 1001)), (23.976, Fraction(24000, 1001)), (23.98, Fraction(24000, 1001)),
        (59.94, Fraction(60000, 1001)), (119.88, Fraction(120000, 1001)), (14.985, Fraction(15000, 1001)),
        # As a host rounds it, and as one makes it of a float.
        (Fraction(2997, 100), Fraction(30000, 1001)), (Fraction(29.97), Fraction(30000, 1001)),
        # Near, and yet others.
        (29.96, Fraction(749, 25)), (Fraction(1199, 50), Fraction(1199, 50)), (24, 24), (30.0, 30), (60, 60),
    ],
)  # fmt: skip
def test_rates_are_the_fractions_that_were_meant(given, meant):
    assert as_rate(given) == meant


@pytest.mark.parametrize("fps", [23.98, 29.97, Fraction(59.94), float(Fraction(60000, 1001))])
def test_a_rate_of_television_is_in_the_file(tmp_path, fps):
    path = write_clip(tmp_path / "c.mp4", smooth(4, 16, 16), fps, tone(1))
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        assert stream.average_rate == stream.guessed_rate == as_rate(fps) and as_rate(fps).denominator == 1001
        shown = {packet.duration * stream.time_base for packet in file.demux(stream) if packet.size}
        assert shown == {1 / as_rate(fps)}


def test_an_odd_rate_keeps_an_hour_in_step():
    given = Fraction(53850000, 1798723)
    assert abs(3600 * given / as_rate(given) - 3600) < 0.01
