"""Timecode: counted as SMPTE counts it, read with a clip, and written with its edit."""

from __future__ import annotations

from fractions import Fraction

import av
import pytest
import torch
from steadyedit.streaming.source import FileFrames
from steadyedit.streaming.video import edited_video
from steadyedit.video.read import read_clip
from steadyedit.video.timecode import later
from steadyedit.video.write import write_clip

NTSC, FRAMES = Fraction(30000, 1001), 6


def numbers(rate: int, dropped: int):
    """All numbers of 25 minutes, one by one."""
    for place in range(25 * 60 * rate):
        minute, second, frame = place // rate // 60, place // rate % 60, place % rate
        if second or minute % 10 == 0 or frame >= dropped:
            yield f"00:{minute:02}:{second:02}{';' if dropped else ':'}{frame:02}"


@pytest.mark.parametrize("fps, dropped", [(NTSC, 2), (2 * NTSC, 4), (Fraction(24000, 1001), 0), (Fraction(25), 0)])
def test_frames_have_the_numbers_that_come_one_after_another(fps, dropped):
    names = list(numbers(round(fps), dropped))
    for first in range(0, len(names), 911):
        assert later(names[first], fps, 0) == names[first]
        assert [later(names[first], fps, at - first) for at in range(first, len(names), 677)] == names[first::677]


@pytest.mark.parametrize("timecode, fps, frames, stride, expected", [
    ("23:59:59:23", 24, 1, 1, "00:00:00:00"),
    ("23:59:59;29", NTSC, 1, 1, "00:00:00;00"),
    ("01:00:00:21", 24, 2, 3, "01:00:00:07"),
    ("01:01:00;04", 2 * NTSC, 0, 2, "01:01:00;02"),
    ("01:00:00;27", NTSC, 0, 3, "01:00:00:09"),
    ("01:00:00;00", 25, 0, 1, None),
    ("01:00:00:25", 25, 0, 1, None),
    ("01:75:00:00", 25, 0, 1, None),
])  # fmt: skip
def test_days_strides_and_what_fits_no_rate(timecode, fps, frames, stride, expected):
    assert later(timecode, Fraction(fps), frames, stride) == expected


def with_timecode(path, timecode, fps):
    frames = torch.rand(FRAMES, 16, 16, 3, generator=torch.Generator().manual_seed(1))
    return write_clip(path, frames, fps, timecode=timecode)


def tags(path):
    """Of the file, the picture and the track of its own."""
    with av.open(str(path)) as file:
        return file.metadata.get("timecode"), *(stream.metadata.get("timecode") for stream in file.streams)


@pytest.mark.parametrize("timecode, fps, moved", [("10:11:12:22", 24, "10:11:13:00"),
                                                  ("01:00:59;28", NTSC, "01:01:00;02")])
def test_a_clip_keeps_its_timecode_streamed_and_read_whole(tmp_path, timecode, fps, moved):
    path = with_timecode(tmp_path / "clip.mp4", timecode, fps)
    assert tags(path) == (timecode,) * 3 and read_clip(path).timecode == timecode
    clip = FileFrames(path, start=2)
    assert clip.timecode == read_clip(path, start=2).timecode == moved
    # A part of the file that the host calls the clip, in seconds.
    assert FileFrames(path, window=(2 / float(fps), 0.0)).timecode == moved

    class Quiet:
        def update(self, value, preview=None):
            pass

    saved, _ = edited_video(lambda window, part, room: torch.zeros(window.count, 16, 16, 3), clip, "an edit", tmp_path,
                            3, Quiet())  # fmt: skip
    assert tags(saved) == (moved,) * 3


def test_matroska_has_it_among_its_tags(tmp_path):
    from video_files import make_video, numbered

    path = make_video(tmp_path / "clip.mkv", [numbered(number) for number in range(3)], 25, timecode="02:00:00:10")
    assert read_clip(path, start=1).timecode == "02:00:00:11"
    assert read_clip(make_video(tmp_path / "none.mkv", [numbered(0)], 25)).timecode is None
    odd = make_video(tmp_path / "odd.mkv", [numbered(0)], 25, timecode="at noon")
    assert read_clip(odd).timecode is None
