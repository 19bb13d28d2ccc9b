"""What a video file is, without decoding it."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av

from .source import Source, audio_stream, decoded, name_of, open_source, video_stream


@dataclass(frozen=True)
class VideoInfo:
    """The facts by which ``read`` lays a constant frame rate over a file.

    Args:
        name: file name for messages.
        width, height: stored pixels, before rotation.
        fps: the mean rate; the grid on which frames are counted.
        begin: when the first frame is shown, in seconds of the file's own clock.
        end: when the last frame ends by the header or the packets.
        promised_end: when it should end by the header alone; later than ``end`` where the
            file is cut short; None where the header is silent.
        seekable: timestamps exist, so that a jump can be checked.
        audio: there is sound that can be decoded.
    """

    name: str
    width: int
    height: int
    fps: Fraction
    begin: Fraction
    end: Fraction
    promised_end: Fraction | None
    seekable: bool
    audio: bool

    @property
    def frames(self) -> int:
        """Number of frames on the grid."""
        return max(1, round((self.end - self.begin) * self.fps))


def probe(source: Source) -> VideoInfo:
    """Read the header; where it is silent, the packets' timestamps too (no decoding).

    mp4 and mov say how many frames they hold and how long. webm, gif and fragmented files
    do not, and guess a rate from their first packets, so those are measured.

    Raises:
        FileNotFoundError, ValueError: see ``source.open_source``; no video stream; zero frames.
    """
    name = name_of(source)
    with open_source(source) as container:
        stream = video_stream(container, name)
        begin = (stream.start_time or 0) * stream.time_base
        rate = stream.average_rate
        length = (stream.duration or 0) * stream.time_base
        # A gif states its length and number of frames too, but a rate that contradicts them.
        if stream.frames and length and rate and abs(rate * length - stream.frames) < Fraction(1, 2):
            end = promised = begin + length
        else:
            begin, end, rate = _measure(container, stream, name)
            promised = _promised(stream, begin)
        return VideoInfo(
            name=name,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            fps=Fraction(rate),
            begin=begin,
            end=end,
            promised_end=promised,
            seekable=stream.start_time is not None,
            audio=audio_stream(container) is not None,
        )


def _measure(
    container: av.container.InputContainer, stream: av.VideoStream, name: str
) -> tuple[Fraction, Fraction, Fraction]:
    packets = [packet for packet in container.demux(stream) if packet.size]
    if not packets:
        raise ValueError(f"{name}: the video stream has zero frames.")
    times = sorted(packet.pts for packet in packets if packet.pts is not None)
    if not times:  # a bare elementary stream: frames follow each other at the codec's rate
        rate = Fraction(stream.guessed_rate or 25)
        return Fraction(0), len(packets) / rate, rate
    begin, last = times[0] * stream.time_base, times[-1] * stream.time_base
    shown = max((packet.duration or 0 for packet in packets if packet.pts == times[-1]), default=0) * stream.time_base
    rate = _rate(len(times), last - begin, shown, stream)
    return begin, last + (shown or 1 / rate), rate


def _rate(count: int, span: Fraction, last_duration: Fraction, stream: av.VideoStream) -> Fraction:
    """The rate a person would name, if by it no frame of the clip moves by half a frame."""
    stated = [Fraction(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate and rate <= 1000]
    if count < 2 or span <= 0:
        return 1 / last_duration if last_duration else next(iter(stated), Fraction(25))
    mean = (count - 1) / span
    round_rates = [Fraction(round(mean) or 1), Fraction(round(mean * 1001 / 1000) * 1000 or 1000, 1001)]
    for candidate in stated + round_rates:
        if abs(candidate * span - (count - 1)) < Fraction(1, 2):
            return candidate
    return mean.limit_denominator(100_000)


def _promised(stream: av.VideoStream, begin: Fraction) -> Fraction | None:
    """Matroska keeps the length of each track in a tag, ``00:00:03.033000000``."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return begin + int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except (KeyError, ValueError):
        return None


def first_frame(source: Source) -> av.VideoFrame:
    """The first frame that decodes: it alone knows rotation and alpha.

    Raises:
        ValueError: zero frames can be decoded.
    """
    name = name_of(source)
    with open_source(source) as container:
        for frame in decoded(container, video_stream(container, name)):
            return frame
    raise ValueError(f"{name}: the video stream has zero frames that can be decoded.")
