"""What a container hides (edit lists, cut openings, priming of sound) is not in the clip, as in players."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from steadyedit.video.probe import probe
from steadyedit.video.read import read_clip
from video_files import make_video, number_of, numbered, set_edit_list

DELAY = 0.2  # by which this x264 shows later than it stores, for B frames


def numbers(clip) -> list[int]:
    return [number_of(frame) for frame in clip.frames]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([(2, 0.7)], range(7, 27)),  # a lossless trim: decoding begins at the keyframe before
        ([(1.05, 0.75)], range(8, 18)),  # between two frames
        ([(0.3, 0)], range(3)),
        ([(1, 3.6)], range(36, 40)),  # to past the end
        ([(1, 2.0), (1, 0.5)], [*range(20, 30), *range(5, 15)]),
        ([(1, 1), (1, 1)], [*range(10, 20)] * 2),
        ([(0.5, -1), (2, 0.4)], range(4, 24)),  # begins with nothing
    ],
)
def test_an_edit_list_is_the_clip(tmp_path, entries, expected):
    path = make_video(tmp_path / "cut.mp4", [numbered(i) for i in range(40)], 10, keyframes=15)
    set_edit_list(path, [(length, begin if begin < 0 else begin + DELAY) for length, begin in entries])
    expected = list(expected)
    assert numbers(read_clip(path)) == expected
    assert probe(path).frames == len(expected)
    assert numbers(read_clip(path, start=len(expected) - 2)) == expected[-2:]


def test_sound_stays_in_step_with_a_trimmed_picture(tmp_path):
    path = make_video(tmp_path / "talk.mp4", [numbered(i) for i in range(40)], 10, sound=True, keyframes=15)
    priming = 1024 / 48000
    set_edit_list(path, [(2, 0.7 + DELAY)], 0)
    set_edit_list(path, [(2, 0.7 + priming)], 1)
    clip = read_clip(path)
    wave = clip.audio["waveform"][0, 0]
    assert abs(len(wave) / 48000 - 2) < 0.03
    time = 0.7 + torch.arange(len(wave)) / 48000
    loud = torch.nn.functional.max_pool1d(wave.abs()[None], 241, 1, 120)[0] > 0.2
    far = ((time % 0.5) > 0.03) & ((time % 0.5) < 0.47)
    assert (loud == ((time % 1) < 0.5))[far].float().mean() > 0.99


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("mkv", "libmp3lame")])
def test_priming_is_not_heard(tmp_path, kind, codec):
    """A click in the first sample of the source is in the first samples that are read."""
    wave = np.zeros((1, 48000), np.float32)
    wave[:, 4800:4848] = 0.9
    path = tmp_path / f"click.{kind}"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264" if kind != "webm" else "libvpx-vp9", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        track = output.add_stream(codec, rate=48000, layout="mono")
        for index in range(10):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        output.mux(stream.encode(None))
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
        resampler = av.AudioResampler(track.codec_context.format, "mono", 48000)
        for part in [*resampler.resample(frame), *resampler.resample(None)]:
            output.mux(track.encode(part))
        output.mux(track.encode(None))
    read = read_clip(path).audio["waveform"][0, 0]
    # matroska counts milliseconds
    assert abs(int(read.abs().argmax()) - 4824) < 24 + 96


@pytest.mark.parametrize("codec", ["libx264", "mpeg2video"])
@pytest.mark.parametrize("kind", ["ts", "mkv"])
def test_a_clip_cut_in_the_middle_begins_with_its_first_whole_picture(tmp_path, codec, kind):
    """Pictures before the first keyframe, or leading it in an open group, cannot be decoded."""
    if codec == "libx264":
        options = {"crf": "4", "x264-params": "open-gop=1:keyint=12:min-keyint=12:bframes=2:b-adapt=0:scenecut=0"}
    else:
        options = {"qmin": "1", "qmax": "1", "bf": "2", "g": "12"}
    path = tmp_path / f"cut.{kind}"
    with av.open(str(tmp_path / "whole.ts"), "w", format="mpegts") as output:
        stream = output.add_stream(codec, rate=25, options=options)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index in range(40):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(numbered(index), format="rgb24")))
        output.mux(stream.encode(None))
    with av.open(str(tmp_path / "whole.ts")) as source, av.open(str(path), "w") as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in [packet for packet in source.demux(video=0) if packet.dts is not None][5:]:
            packet.stream = stream
            output.mux(packet)
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
        expected = [number_of(frame.to_ndarray(format="rgb24") / 255) for frame in shown]
    assert 20 < len(expected) < 36
    assert numbers(read_clip(path)) == expected


@pytest.mark.parametrize("offset", [-0.6, 0.0, 100.0])
@pytest.mark.parametrize("kind", ["mpegts", "matroska"])
def test_clocks_may_begin_anywhere(tmp_path, kind, offset):
    path = tmp_path / "clock.bin"
    with av.open(str(path), "w", format=kind, options={"avoid_negative_ts": "disabled"}) as output:
        stream = output.add_stream("mpeg4", rate=10, options={"qmin": "1", "qmax": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for index in range(20):
            frame = av.VideoFrame.from_ndarray(numbered(index), format="rgb24")
            frame.pts, frame.time_base = round((index / 10 + offset) * 1000), Fraction(1, 1000)
            for packet in stream.encode(frame):
                output.mux(packet)
        output.mux(stream.encode(None))
    clip = read_clip(path)
    assert numbers(clip) == list(range(20)) and clip.fps == 10
    assert not [note for note in clip.notes if "variable" in note]
