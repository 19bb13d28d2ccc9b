"""Files that are no good: one clear sentence each, and nothing half-done is left."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
from steadyedit.video.read import read_clip
from video_files import make_video, number_of, numbered


def test_no_such_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"^gone.mp4: there is no such video file\.$"):
        read_clip(tmp_path / "gone.mp4")


def test_empty_file(tmp_path):
    path = tmp_path / "empty.mp4"
    path.touch()
    with pytest.raises(ValueError, match=r"^empty.mp4: the file is empty\.$"):
        read_clip(path)


@pytest.mark.parametrize("content", [b"not a video at all " * 400, b"\0" * 5000])
def test_no_media_file(tmp_path, content):
    path = tmp_path / "notes.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="^notes.mp4: this is no readable video"):
        read_clip(path)
    with pytest.raises(ValueError, match="^the video: this is no readable video"):
        read_clip(io.BytesIO(content))


def test_sound_alone_is_no_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 48000), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(ValueError, match=r"^song.mp4: the file has no video stream\.$"):
        read_clip(path)


def test_zero_frames(tmp_path):
    path = tmp_path / "void.mkv"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuvj420p"
        track = output.add_stream("aac", rate=48000)
        output.start_encoding()
        frame = av.AudioFrame.from_ndarray(np.zeros((2, 48000), np.float32), format="fltp", layout="stereo")
        frame.sample_rate = 48000
        output.mux(track.encode(frame))
        output.mux(track.encode(None))
    with pytest.raises(ValueError, match=r"^void.mkv: the video stream has zero frames"):
        read_clip(path)


@pytest.mark.parametrize(("kind", "codec"), [("mp4", "libx264"), ("webm", "libvpx-vp9"), ("mov", "png")])
def test_cut_short(tmp_path, kind, codec):
    """What is asked for and still there comes; what is missing is said, with what to do."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(60)]
    path = make_video(
        tmp_path / f"whole.{kind}", images, 10, codec, "rgb24" if codec == "png" else "yuv420p", keyframes=5
    )
    if kind == "mp4":  # the index at the front, as on the web; else the file cannot even be opened
        path = _index_first(path)
    cut = tmp_path / f"cut.{kind}"
    data = path.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    if kind == "mov":
        with pytest.raises(ValueError, match="^cut.mov: this is no readable video; it is cut short"):
            read_clip(cut)
        return
    assert len(read_clip(cut, 3, 10).frames) == 10
    with pytest.raises(ValueError, match=r"^cut.\w+: the file is cut short: of 60 frames only the first \d\d can"):
        read_clip(cut)
    with pytest.raises(ValueError, match="cut short"):
        read_clip(cut, 20, 30)


def _index_first(path):
    target = path.with_name("front.mp4")
    with av.open(str(path)) as source, av.open(str(target), "w", options={"movflags": "faststart"}) as output:
        stream = output.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                output.mux(packet)
    return target


def test_a_damaged_spot_shows_the_frame_before(tmp_path):
    """A lost packet in the middle costs its frames, not the rest of the clip nor the clock."""
    path = make_video(tmp_path / "spot.mov", [numbered(i) for i in range(20)], 10, "png", "rgb24")
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][8]
        data[packet.pos : packet.pos + packet.size] = b"\0" * packet.size
    path.write_bytes(data)
    expected = [*range(8), 7, *range(9, 20)]
    assert [number_of(frame) for frame in read_clip(path).frames] == expected


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"start": 12}, r"^clip.mp4: start 12 is past the end; the clip has 12 frames\.$"),
        ({"start": -1}, "^start: at least 0 is needed, but got -1"),
        ({"count": -1}, "^count: at least 0"),
        ({"stride": 0}, "^stride: at least 1"),
        ({"size": 0}, "^size: at least 1 pixel"),
        ({"size": (0, 8)}, "^size: at least 1x1"),
        ({"size": 4, "multiple": 8}, "^size: 4x4 is smaller than the least side, 8 pixels"),
        ({"fit": "squeeze"}, "^fit: expected one of crop, stretch, pad, but got 'squeeze'"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, sentence):
    path = make_video(tmp_path / "clip.mp4", [numbered(i) for i in range(12)])
    with pytest.raises(ValueError, match=sentence):
        read_clip(path, **settings)


def test_more_than_memory_is_refused_before_decoding(tmp_path, monkeypatch):
    path = make_video(tmp_path / "clip.mp4", [numbered(i) for i in range(12)])
    psutil = pytest.importorskip("psutil")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10_000})())
    with pytest.raises(MemoryError, match="^clip.mp4: the frames asked for need .* set a smaller count or size"):
        read_clip(path)
