"""Open a video for reading, with one clear sentence where that is impossible."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO

import av

from .fields import deinterlaced
from .webp import as_film, is_animated

_DAMAGED = "this is no readable video; it is cut short, damaged or of another kind."
Source = str | os.PathLike | IO[bytes]


def name_of(source: Source) -> str:
    """What messages call the source: the file's name, not its folder."""
    return os.path.basename(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else "the video"


@contextmanager
def open_source(source: Source) -> Iterator[av.container.InputContainer]:
    """An open container, closed on leaving.

    Raises:
        FileNotFoundError: no file of that name.
        ValueError: empty, truncated before its index, or no media file at all.
    """
    name = name_of(source)
    if isinstance(source, (str, os.PathLike)):
        source = os.fspath(source)
        if not os.path.isfile(source):
            raise FileNotFoundError(f"{name}: there is no such video file.")
        if os.path.getsize(source) == 0:
            raise ValueError(f"{name}: the file is empty.")
    else:
        source.seek(0)
    source = _readable(source, name)
    try:
        # Odd bytes in a title must not keep a video from opening.
        container = av.open(source, metadata_errors="replace")
    except (av.error.FFmpegError, EOFError) as error:
        raise ValueError(f"{name}: {_DAMAGED}") from error
    with container:
        yield container


def _readable(source: str | IO[bytes], name: str) -> str | IO[bytes]:
    """The source; what FFmpeg has no reader for, as what it has one for."""
    with open(source, "rb") if isinstance(source, str) else nullcontext(source) as file:
        animated = is_animated(file.read(21))
        file.seek(0)
        if not animated:
            return source
        try:
            return io.BytesIO(as_film(file.read()))
        except (av.error.FFmpegError, OSError, ValueError, SyntaxError, EOFError) as error:
            raise ValueError(f"{name}: {_DAMAGED}") from error


def video_stream(container: av.container.InputContainer, name: str) -> av.VideoStream:
    """The first moving picture; the cover image of a song is not one.

    Raises:
        ValueError: the file holds no video stream that can be decoded.
    """
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & av.stream.Disposition.attached_pic and stream.codec_context is not None
    ]
    # An animated AVIF has its still first, then the sequence.
    if pictures and pictures[0].frames == 1 and len(pictures) > 1:
        return max(pictures, key=lambda stream: stream.frames)
    if pictures:
        return pictures[0]
    raise ValueError(f"{name}: the file has no video stream.")


def audio_stream(container: av.container.InputContainer) -> av.AudioStream | None:
    """The first sound track that FFmpeg has a decoder for, or None."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def decoded(
    container: av.container.InputContainer, stream: av.VideoStream, whole: bool = True
) -> Iterator[av.VideoFrame]:
    """Frames in the order they are shown, from where the container stands.

    Damaged packets in the middle are left out: by the rule of ``read``, the frame before
    them stays on screen. Whether the end is missing is the caller's to judge. Interlaced
    frames come ``whole``, or as they are.
    """
    frames = _decoded(container, stream)
    yield from deinterlaced(frames, stream) if whole else frames


def _decoded(container: av.container.InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    decoder = _alpha_decoder(stream) or stream.codec_context
    for packet in container.demux(stream):
        if packet.is_corrupt:
            continue
        try:
            frames = decoder.decode(packet if packet.size else None)
        except av.error.InvalidDataError:
            continue
        except EOFError:
            return
        yield from frames


def _alpha_decoder(stream: av.VideoStream) -> av.CodecContext | None:
    # FFmpeg's own VP8 and VP9 decoders drop the alpha plane of a webm; libvpx keeps it.
    library = {"vp9": "libvpx-vp9", "vp8": "libvpx"}.get(stream.codec_context.name)
    if library is None or stream.metadata.get("alpha_mode") != "1" or library not in av.codecs_available:
        return None
    return av.CodecContext.create(library, "r")
