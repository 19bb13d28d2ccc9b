"""The sound of a range of a video, and sound into a file that is being written."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import torch

from .clip import Audio
from .source import Source, audio_stream, open_source

# Rates that AAC knows; any other is resampled to 48 kHz.
_AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)
_LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}
# Seconds by which a timestamp may differ from counted samples before it is believed: webm
# rounds to milliseconds, and obeying that would click.
_JITTER = 0.04


def read_audio(source: Source, begin: Fraction, end: Fraction) -> Audio | None:
    """The sound between two moments of the file's clock, or None where there is none.

    Sound that starts later than ``begin`` and gaps are silence, so that it stays in step
    with the picture; sound that ends before ``end`` simply ends.
    """
    with open_source(source) as container:
        stream = audio_stream(container)
        if stream is None:
            return None
        chunks = _chunks(container, stream, begin, end)
        first = next(chunks, None)
        if first is None:
            return None
        rate, total = first[2], round((end - begin) * first[2])
        waveform = np.zeros((first[1].shape[0], total), np.float32)
        position, filled = None, 0
        for time, samples, _ in _with(first, chunks):
            stated = round((time - begin) * rate)
            position = stated if position is None or abs(stated - position) > _JITTER * rate else position
            left, right = max(0, position), min(total, position + samples.shape[1])
            if right > left:
                waveform[:, left:right] = samples[:, left - position : right - position]
                filled = max(filled, right)
            position += samples.shape[1]
    if not filled:
        return None
    return {"waveform": torch.from_numpy(waveform[:, :filled].copy())[None], "sample_rate": rate}


def _with(first, rest):
    yield first
    yield from rest


def _chunks(container, stream, begin: Fraction, end: Fraction):
    """(time of the first sample, float32 [channels, samples], rate), as decoded."""
    if begin > 1:
        try:
            # A codec needs a little run-up before its samples are right.
            container.seek(int((begin - Fraction(1, 2)) / stream.time_base), stream=stream)
        except av.error.FFmpegError:
            container.seek(0)
    resampler = av.AudioResampler(format="fltp")
    channels = rate = None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except (av.error.InvalidDataError, EOFError):
            continue
        for frame in frames:
            if frame.pts is None:
                continue
            time = frame.pts * frame.time_base
            if time >= end:
                return
            for part in resampler.resample(frame):
                samples = part.to_ndarray()
                channels, rate = channels or samples.shape[0], rate or part.sample_rate
                if samples.shape[0] == channels:
                    yield time, samples, rate
                    time += Fraction(samples.shape[1], rate)


class AudioTrack:
    """An AAC track of a container that is being written.

    Args:
        output: open container.
        audio: the host's AUDIO; its first batch entry is written.
        seconds: length of the picture; longer sound is cut to it.

    Raises:
        ValueError: the waveform is not [1, channels, samples] or holds NaN.
    """

    def __init__(self, output: av.container.OutputContainer, audio: Audio, seconds: Fraction):
        waveform, self.rate = audio["waveform"], int(audio["sample_rate"])
        if waveform.ndim != 3 or waveform.shape[1] < 1:
            raise ValueError(f"audio: expected a waveform [1, channels, samples], but got {list(waveform.shape)}.")
        waveform = waveform[0, :, : int(seconds * self.rate)].detach().float().cpu()
        if not torch.isfinite(waveform).all():
            raise ValueError("audio: the waveform holds values that are not finite.")
        if len(waveform) not in _LAYOUTS:
            waveform = waveform.mean(0, keepdim=True)
        self.samples = waveform.clamp(-1, 1).contiguous().numpy()
        self.layout = _LAYOUTS[len(waveform)]
        self.written_rate = self.rate if self.rate in _AAC_RATES else 48000
        self.output = output
        self.stream = output.add_stream("aac", rate=self.written_rate, layout=self.layout)

    def write(self) -> None:
        """Encode and mux all samples."""
        resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=self.written_rate)
        for first in range(0, self.samples.shape[1], self.rate):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(self.samples[:, first : first + self.rate]), format="fltp", layout=self.layout
            )
            frame.sample_rate, frame.pts, frame.time_base = self.rate, first, Fraction(1, self.rate)
            for part in resampler.resample(frame):
                self.output.mux(self.stream.encode(part))
        for part in resampler.resample(None):
            self.output.mux(self.stream.encode(part))
        self.output.mux(self.stream.encode(None))
