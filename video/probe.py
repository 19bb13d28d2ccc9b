"""What a video file is, from its header, its first frame and, where these are silent, its packets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av

from .colour import Colour, colour_of
from .geometry import shown_size
from .source import Source, audio_stream, decoded, name_of, open_source, video_stream
from .timecode import timecode_in

#: Of PyAV, that reads colours exactly: 14.2 to 16.1 lose where chroma lies, and take yuvj for another range.
OLDEST = 17


@dataclass(frozen=True)
class VideoInfo:
    """The facts by which ``read`` lays a constant frame rate over a file.

    Args:
        name: file name for messages.
        width, height: stored pixels, before rotation.
        shown: width and height on screen, rotated, with square pixels.
        colour: how the numbers are meant.
        fps: the rate of the grid on which frames are counted.
        begin: when the first frame that decodes is shown, in seconds of the file's own clock.
            What a container hides before it (edit lists, discarded packets, pictures whose
            references were cut away) does not count.
        end: when the last frame ends by the header or the packets.
        promised_end: when it should end by the header alone; later than ``end`` where the
            file is cut short; None where the header is silent.
        seekable: timestamps exist, so that a jump can be checked.
        audio: there is sound that can be decoded.
        interlaced: frames are deinterlaced as they are read.
        timecode: of the first frame, where the file has one; see ``timecode``.
        notes: what a user should know of the file, in words.
    """

    name: str
    width: int
    height: int
    shown: tuple[int, int]
    colour: Colour
    fps: Fraction
    begin: Fraction
    end: Fraction
    promised_end: Fraction | None
    seekable: bool
    audio: bool
    interlaced: bool = False
    timecode: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def frames(self) -> int:
        """Number of frames on the grid."""
        return max(1, round((self.end - self.begin) * self.fps))


def probe(source: Source, finest: bool = False) -> VideoInfo:
    """Read the header and the first frame; where the header is silent, the packets' timestamps too.

    mp4 and mov say how many frames they hold and how long. webm, gif, fragmented files and
    those with an edit list do not, or guess a rate from their first packets: they are measured.

    Args:
        finest: ``fps`` is the rate of the shortest distance between two frames, not the mean.

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
        stated = bool(stream.frames and length and rate and abs(rate * length - stream.frames) < Fraction(1, 2))
        end = promised = begin + length
        first = next(decoded(container, stream, whole=False), None)
        if first is None:
            raise ValueError(f"{name}: the video stream has zero frames that can be decoded.")
        if first.pts is not None and stream.start_time is not None:
            begin = first.pts * stream.time_base
        colour, aspect = colour_of(first, stream.codec_context), stream.sample_aspect_ratio
        shown = shown_size(first, aspect)
        facts = dict(
            name=name,
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            seekable=stream.start_time is not None,
            audio=audio_stream(container) is not None,
            timecode=timecode_in(container, stream),
        )
    if finest or not stated:
        with open_source(source) as container:
            stream = video_stream(container, name)
            begin, end, rate = _measure(container, stream, name, begin, finest)
            promised = promised if stated else _promised(stream)
    notes = list(colour.notes)
    if int(av.__version__.split(".")[0]) < OLDEST:
        notes.append(f"PyAV {av.__version__} shifts colours and misreads full range; update it to {OLDEST} or newer: "
                     "python -m pip install --upgrade av")
    if first.interlaced_frame:
        notes.append("interlaced: deinterlaced, one picture for two fields")
    if aspect and aspect != 1:
        notes.append(f"pixels of {aspect.numerator}:{aspect.denominator}: made square, {shown[0]}x{shown[1]}")
    return VideoInfo(shown=shown, colour=colour, fps=Fraction(rate), begin=begin, end=end, promised_end=promised,
                     interlaced=bool(first.interlaced_frame), notes=tuple(notes), **facts)


def _measure(
    container: av.container.InputContainer, stream: av.VideoStream, name: str, begin: Fraction, finest: bool
) -> tuple[Fraction, Fraction, Fraction]:
    """(begin, end, rate) by the timestamps of the packets that are shown."""
    packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
    if not packets:
        raise ValueError(f"{name}: the video stream has zero frames.")
    first = round(begin / stream.time_base)
    times = sorted(packet.pts for packet in packets if packet.pts is not None and packet.pts >= first)
    if not times:  # a bare elementary stream: frames follow each other at the codec's rate
        rate = Fraction(stream.guessed_rate or 25)
        return Fraction(0), len(packets) / rate, rate
    begin, last = times[0] * stream.time_base, times[-1] * stream.time_base
    shown = max((packet.duration or 0 for packet in packets if packet.pts == times[-1]), default=0) * stream.time_base
    rate = _rate(len(times), last - begin, shown, stream)
    end = last + (shown or 1 / rate)
    return begin, end, _finest(times, rate, stream) if finest else rate


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


def _finest(times: list[int], mean: Fraction, stream: av.VideoStream) -> Fraction:
    """A rate by which no two frames fall on one place: a stated one, if the clock only rounds it."""
    gap = min((after - before for before, after in zip(times, times[1:]) if after > before), default=0)
    if not gap:
        return mean
    seconds = gap * stream.time_base
    for rate in (mean, stream.guessed_rate):
        if rate and Fraction(9, 10) <= rate * seconds:
            return Fraction(rate)
    return min(1 / seconds, Fraction(1000)).limit_denominator(1001)


def _promised(stream: av.VideoStream) -> Fraction | None:
    """Matroska keeps the end of each track in a tag, ``00:00:03.033000000`` (some write its length: never later)."""
    try:
        hours, minutes, seconds = stream.metadata["DURATION"].split(":")
        return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
    except (KeyError, ValueError):
        return None
