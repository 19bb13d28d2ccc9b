"""Small video files, made for the tests by PyAV; every frame tells its own number."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE = 32


def numbered(index: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """A gray frame of level 5 + 6 * (index % 40): 4:2:0 and h264 keep it to one level."""
    return np.full((height, width, 3), 5 + 6 * (index % 40), np.uint8)


def number_of(frame) -> int:
    """What ``numbered`` wrote, read from a float frame in 0..1."""
    return round((float(frame.mean()) * 255 - 5) / 6)


def make_video(
    path: Path,
    images: list[np.ndarray],
    fps: Fraction | int = 10,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    sound: bool = False,
    keyframes: int = 250,
    timecode: str | None = None,
) -> Path:
    """Write uint8 images [H, W, 3 or 4]; ``times`` in milliseconds make a variable rate."""
    with av.open(str(path), "w") as output:
        if timecode is not None:
            output.metadata["timecode"] = timecode
        stream = output.add_stream(codec, rate=fps)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.gop_size = keyframes
        stream.options = {"libx264": {"crf": "4"}, "mpeg4": {"qmin": "1", "qmax": "1"}}.get(codec, {})
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        # All streams exist before the first packet, which writes the header.
        track = output.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000) if sound else None
        for index, image in enumerate(images):
            frame = av.VideoFrame.from_ndarray(image, format="rgba" if image.shape[2] == 4 else "rgb24")
            if times:
                frame.pts, frame.time_base = times[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
        if track is not None:
            _ticks(output, track, Fraction(len(images)) / fps)
    return path


def _ticks(output, track, seconds: Fraction) -> None:
    """A tone that sounds in the first half of every second: when it starts is exact to hear."""
    time = np.arange(int(seconds * 48000)) / 48000
    wave = (0.5 * np.sin(2 * np.pi * 440 * time) * (time % 1 < 0.5)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(np.stack([wave, wave]), format="fltp", layout="stereo")
    frame.sample_rate, frame.pts, frame.time_base = 48000, 0, Fraction(1, 48000)
    resampler = av.AudioResampler(format=track.codec_context.format, layout="stereo", rate=48000)
    for part in [*resampler.resample(frame), *resampler.resample(None)]:
        output.mux(track.encode(part))
    output.mux(track.encode(None))


def set_display_matrix(path: Path, a: int, b: int, c: int, d: int) -> Path:
    """Write the 2x2 part of the display matrix into an mp4's video track header, as phones do."""
    data = bytearray(path.read_bytes())
    header = data.index(b"tkhd")
    # version 0: after 4 bytes of type, 4 of flags, 20 of times, id and duration, 8 reserved, 8 of layer and volume
    start = header + 4 + 4 + 20 + 8 + 8
    for slot, value in ((0, a), (1, b), (3, c), (4, d)):
        data[start + 4 * slot : start + 4 * slot + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(data)
    return path


def set_edit_list(path: Path, entries: list[tuple[float, float]], track: int = 0) -> Path:
    """Replace a track's edit list in an mp4 whose index is at the end: (seconds shown, seconds of media, -1: none)."""
    data = bytearray(path.read_bytes())
    moov = _box(data, b"moov", 0, len(data))
    position = moov + 8
    for _ in range(track + 1):
        trak = _box(data, b"trak", position, len(data))
        position = trak + _size(data, trak)
    media = data.index(b"mdhd", trak)
    timescale = int.from_bytes(data[media + 16 : media + 20], "big")
    movie = data.index(b"mvhd", moov)
    movie_scale = int.from_bytes(data[movie + 16 : movie + 20], "big")
    edts = data.index(b"edts", trak) - 4
    body = b"\0\0\0\0" + len(entries).to_bytes(4, "big")
    for shown, begin in entries:
        body += round(shown * movie_scale).to_bytes(4, "big")
        body += (-1 if begin < 0 else round(begin * timescale)).to_bytes(4, "big", signed=True) + b"\0\1\0\0"
    box = (16 + len(body)).to_bytes(4, "big") + b"edts" + (8 + len(body)).to_bytes(4, "big") + b"elst" + body
    grown = len(box) - _size(data, edts)
    for outer in (trak, moov):
        data[outer : outer + 4] = (_size(data, outer) + grown).to_bytes(4, "big")
    data[edts : edts + _size(data, edts)] = box
    path.write_bytes(data)
    return path


def _size(data: bytearray, box: int) -> int:
    return int.from_bytes(data[box : box + 4], "big")


def _box(data: bytearray, kind: bytes, start: int, end: int) -> int:
    while start < end and data[start + 4 : start + 8] != kind:
        start += _size(data, start)
    return start
