"""The value that reading a video gives and writing one takes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The host's AUDIO: {"waveform": float32 [1, channels, samples] in -1..1, "sample_rate": int}.
Audio = dict[str, Any]


@dataclass(frozen=True)
class VideoClip:
    """Frames at a constant rate, with the sound that belongs to them.

    Args:
        frames: float32 [F, H, W, 3] in 0..1, sRGB values as they are shown.
        fps: frames per second, exact.
        audio: the sound from the first frame's start to the last frame's end, or None.
        notes: what was done to the pictures beside decoding them, in words.
        timecode: of the first frame, where the file has one.
    """

    frames: Tensor
    fps: Fraction
    audio: Audio | None = None
    notes: tuple[str, ...] = ()
    timecode: str | None = None

    @property
    def seconds(self) -> float:
        """How long the frames last."""
        return float(len(self.frames) / self.fps)


def of_4n_plus_1(clip: VideoClip) -> VideoClip:
    """The clip without its last 0 to 3 frames, as causal video VAEs take it; its sound ends there, and notes say so."""
    count = len(clip.frames)
    spare = (count - 1) % 4
    if not spare:
        return clip
    audio, kept = clip.audio, count - spare
    if audio is not None:
        samples = round(float(kept / clip.fps) * audio["sample_rate"])
        audio = {**audio, "waveform": audio["waveform"][..., :samples]}
    note = f"{spare} of {count} frames left out at the end, for 4N + 1"
    return replace(clip, frames=clip.frames[:kept].clone(), audio=audio, notes=(*clip.notes, note))


# Over an hour the rounding may not move the sound by a hundredth of a second.
_EXACT = 2e-6
# Whole rates that are slowed by 1000/1001 for NTSC.
_TELEVISION = (12, 15, 24, 30, 48, 60, 90, 96, 120, 240)


def as_rate(fps: float | Fraction) -> Fraction:
    """Frames per second as the fraction that was meant: 29.97 and 29.97003 become 30000/1001.

    A rate near n * 1000 / 1001 for one of television's n is taken as that, however it was rounded on its way through
    a float or a host's thousandths; every other one as the simplest fraction that is as good.

    Raises:
        ValueError: not a positive finite number.
    """
    if not 0 < fps < float("inf"):  # NaN fails too
        raise ValueError(f"fps: a rate above 0 is needed, but got {fps}.")
    exact = Fraction(fps)
    for whole in _TELEVISION:
        rate = Fraction(whole * 1000, 1001)
        # 23.98 is how people write it; a measured rate is as near as a float's rounding, or another one.
        if abs(exact / rate - 1) < _EXACT or (isinstance(fps, float) and fps == round(float(rate), 2)):
            return rate
    common = exact.limit_denominator(1001)
    return common if abs(common / exact - 1) < _EXACT else exact.limit_denominator(100_000)
