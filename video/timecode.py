"""Timecode: what a camera's or an editing program's clock shows at the first frame, and some frames later."""

from __future__ import annotations

import re
from fractions import Fraction

import av

from .clip import as_rate

_FORM = re.compile(r"(\d\d):(\d\d):(\d\d)([:;.])(\d\d+)")
#: Frame numbers that SMPTE's drop-frame count leaves out at each minute but every tenth, by frames a second.
_DROPPED = {30: 2, 60: 4}
TAG = "timecode"


def timecode_in(container: av.container.InputContainer, stream: av.VideoStream) -> str | None:
    """HH:MM:SS:FF of the first frame as the file says it (HH:MM:SS;FF where the count drops frames), or None.

    mp4 and mov have it in a track of its own, Matroska and MXF as a tag of the file or the picture.
    """
    for tags in (stream.metadata, container.metadata, *(other.metadata for other in container.streams.data)):
        for name, value in tags.items():
            if name.lower() == TAG and _FORM.fullmatch(value):
                return value
    return None


def later(timecode: str, fps: Fraction, frames: int, stride: int = 1) -> str | None:
    """The timecode so many frames later, for a clip that takes every ``stride``-th frame from there.

    SMPTE ST 12-1: frames count from 0 to the rate, rounded up to a whole number; drop-frame, at 30000/1001 and
    60000/1001, leaves out numbers 0 and 1 (0 to 3) of each minute that is no tenth. Days begin anew. With a stride the
    seconds stay, and the frames are those that have begun at the lower rate.

    Args:
        timecode: of frame 0.
        fps: of the file, frames a second.

    Returns:
        None where a timecode that drops frames does not fit the rate, or the frame's number the rate.
    """
    found, fps = _FORM.fullmatch(timecode), as_rate(fps)
    if found is None:
        return None
    drops, rate = found[4] != ":", _whole(fps)
    dropped = _DROPPED.get(rate, 0) if drops and fps.denominator == 1001 else 0
    hours, minutes, seconds, frame = (int(found[group]) for group in (1, 2, 3, 5))
    if (drops and not dropped) or frame >= rate or minutes > 59 or seconds > 59:
        return None
    place = ((hours * 60 + minutes) * 60 + seconds) * rate + frame + frames
    minute = hours * 60 + minutes
    place -= dropped * (minute - minute // 10)
    ten = 600 * rate - 9 * dropped
    place %= 144 * ten
    tens, rest = divmod(place, ten)
    # The first minute of ten has all its numbers.
    place += dropped * (9 * tens + max(0, (rest - dropped) // (60 * rate - dropped)))
    seconds, frame = divmod(place, rate)
    slower = _whole(fps / stride)
    keeps = dropped and (fps / stride).denominator == 1001 and slower in _DROPPED
    sign = ";" if keeps else ":"
    return (f"{seconds // 3600 % 24:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{sign}"
            f"{frame * slower // rate:02}")  # fmt: skip


def moved(timecode: str | None, fps: Fraction, seconds: Fraction, stride: int = 1) -> str | None:
    """``later`` by a time in the file instead of by frames; None of None."""
    return None if timecode is None else later(timecode, fps, round(seconds * fps), stride)


def _whole(fps: Fraction) -> int:
    return -(-fps.numerator // fps.denominator)
