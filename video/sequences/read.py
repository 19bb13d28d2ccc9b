"""The frames of a sequence, one file at a time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hdr import linear, srgb
from ..memory import check_memory
from .names import Pattern, ranges
from .picture import Picture, read_picture

#: What the numbers in a file, or those of an IMAGE, are.
BY_KIND, SRGB, LINEAR = "by its kind", "sRGB", "linear"
#: What becomes of the frames of a range's handles, and of frames that are missing.
CUT, ADD = "cut off", "add"
STOP, REPEAT = "stop with an error", "repeat the frame before"


@dataclass(frozen=True)
class Range:
    """Frames that are wanted of a sequence.

    Args:
        first: frame number; -1 is the sequence's first.
        count: how many; 0 for all from there.
        step: every so many-th frame number.
        handles: frames at each end that are cut off the range, or read beyond it (``handling``).
        missing: ``STOP`` or ``REPEAT``.
    """

    first: int = -1
    count: int = 0
    step: int = 1
    handles: int = 0
    handling: str = CUT
    missing: str = STOP

    def numbers(self, pattern: Pattern) -> list[int]:
        """The frame numbers in order, those of missing files included.

        Raises:
            ValueError: one sentence, where the sequence has no such range.
            FileNotFoundError: it has no files.
        """
        there = pattern.numbers()
        if not there:
            raise FileNotFoundError(f"{pattern}: there is no frame of it in {pattern.folder}.")
        of = f"{pattern}: has frames {there[0]} to {there[-1]}"
        first = there[0] if self.first < 0 else self.first
        last = first + (self.count - 1) * self.step if self.count else there[-1]
        grow = self.handles * self.step * (1 if self.handling == ADD else -1)
        begin, end = first - grow, last + grow
        if begin > end:
            raise ValueError(f"{of}, and handles {self.handles} leave none of {first} to {last}; use smaller handles.")
        if begin < there[0] or end > there[-1]:
            asked = f", with handles of {self.handles}," if self.handles else ""
            raise ValueError(f"{of}, but {begin} to {end}{asked} are asked for; change first, count or handles.")
        return list(range(begin, end + 1, self.step))


@dataclass
class Sequence:
    """Frames that were read.

    Args:
        frames: float32 [F, H, W, 3].
        alpha: float32 [F, H, W], 1 where opaque, also where the files have none.
        numbers: their frame numbers.
        notes: what was found and done, in words, one a line.
    """

    frames: Tensor
    alpha: Tensor
    numbers: list[int]
    notes: list[str] = field(default_factory=list)


def read_sequence(
    pattern: Pattern,
    wanted: Range = Range(),
    *,
    files: str = BY_KIND,
    images: str = SRGB,
    unmultiply: bool = False,
    clip: bool = False,
    layer: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Sequence:
    """Read a range.

    Args:
        files: what the files hold: ``BY_KIND`` (EXR and float TIFF light, all others sRGB), ``SRGB``, ``LINEAR``.
        images: what the frames are to be, ``SRGB`` or ``LINEAR``; where both agree no number changes.
        unmultiply: divide colours by alpha, where a file's are multiplied by it.
        clip: bring values below 0 to 0, and those above 1 to 1.
        layer: of EXR files.
        progress: called with the frames read so far and their number; may raise to cancel.

    Raises:
        FileNotFoundError, ValueError: no such range, a frame that is missing, cannot be read or is of another size;
            one sentence that names the file.
        MemoryError: the frames would not fit into memory.
    """
    numbers = wanted.numbers(pattern)
    gaps = sorted(set(numbers) - set(pattern.numbers()))
    if gaps and (wanted.missing == STOP or gaps[0] == numbers[0]):
        advice = f"set missing to '{REPEAT}'" if gaps[0] != numbers[0] else "begin at a frame that is there"
        raise FileNotFoundError(f"{pattern}: frames {ranges(gaps)} are missing in {pattern.folder}; render them, or "
                                f"{advice}.")
    frames, alpha, found = torch.empty(0), torch.empty(0), _Found()
    for index, number in enumerate(numbers):
        if number in gaps:
            frames[index], alpha[index] = frames[index - 1], alpha[index - 1]
        else:
            picture = read_picture(pattern.path(number), layer)
            if not index:
                check_memory(str(pattern), picture.rgb[..., 0].numel() * 4 * len(numbers), "choose fewer frames")
                frames = torch.empty(len(numbers), *picture.rgb.shape)
                alpha = torch.ones(len(numbers), *picture.rgb.shape[:2])
            if picture.rgb.shape != frames.shape[1:]:
                (height, width), (others, wide) = picture.rgb.shape[:2], frames.shape[1:3]
                raise ValueError(f"{pattern.name(number)}: is {width}x{height}, but the frames before it are "
                                 f"{wide}x{others}; bring the sequence to one size.")
            frames[index] = _converted(picture, files, images, unmultiply)
            if picture.alpha is not None:
                alpha[index] = picture.alpha
            found.add(picture, frames[index])
        if progress is not None:
            progress(index + 1, len(numbers))
    if clip:
        frames.clamp_(0, 1)
    notes = [_span(pattern, numbers), *found.notes(files, images, unmultiply, clip)]
    if gaps:
        notes.append(f"missing, the frame before is repeated: {ranges(gaps)}")
    for note in notes[1:]:
        logging.info("%s: %s", pattern, note)
    return Sequence(frames, alpha, numbers, notes)


def is_linear(kind_is_linear: bool, declared: str) -> bool:
    """Whether numbers are light, by the user's word or by the custom of the kind of file."""
    return kind_is_linear if declared == BY_KIND else declared == LINEAR


def _converted(picture: Picture, files: str, images: str, unmultiply: bool) -> Tensor:
    colours = picture.rgb
    if unmultiply and picture.premultiplied and picture.alpha is not None:
        # Where nothing is opaque, what colour there is, is light of its own: it stays.
        opaque = picture.alpha[..., None]
        colours = torch.where(opaque > 0, colours / opaque.clamp(min=1e-12), colours)
    stored, given = is_linear(picture.linear, files), images == LINEAR
    if stored == given:
        return colours
    return srgb(colours) if stored else linear(colours)


def _span(pattern: Pattern, numbers: list[int]) -> str:
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    return f"{pattern}: {len(numbers)} frames, {numbers[0]} to {numbers[-1]}" + f", every {step}" * (step > 1)


@dataclass
class _Found:
    """What the files of a sequence are, over all of them."""

    kinds: dict[str, tuple[bool, bool]] = field(default_factory=dict)
    noted: dict[str, int] = field(default_factory=dict)
    with_alpha: int = 0
    frames: int = 0
    low: float = 0.0
    high: float = 1.0

    def add(self, picture: Picture, frame: Tensor) -> None:
        self.kinds[picture.kind] = picture.linear, picture.premultiplied
        for note in picture.notes:
            self.noted[note] = self.noted.get(note, 0) + 1
        self.with_alpha += picture.alpha is not None
        self.frames += 1
        self.low, self.high = min(self.low, float(frame.min())), max(self.high, float(frame.max()))

    def notes(self, files: str, images: str, unmultiply: bool, clip: bool) -> list[str]:
        notes = []
        for kind, (light, _) in self.kinds.items():
            stored = LINEAR if is_linear(light, files) else SRGB
            notes.append(f"{kind}, {stored}: " + ("as stored" if stored == images else f"brought to {images}"))
        if self.with_alpha:
            multiplied = any(premultiplied for _, premultiplied in self.kinds.values())
            state = ("colours are divided by it" if unmultiply else "colours are multiplied by it") if multiplied else (
                "colours are not multiplied by it")
            some = "" if self.with_alpha == self.frames else f" in {self.with_alpha} of {self.frames} frames"
            notes.append(f"alpha{some}; {state}")
        else:
            notes.append("no alpha: opaque")
        if self.low < 0 or self.high > 1:
            notes.append(f"values from {self.low:.4g} to {self.high:.4g}: "
                         + ("cut to 0 and 1" if clip else "kept; models expect 0 to 1, clip does that"))
        return notes + [note if times == self.frames else f"{note} ({times} of {self.frames} frames)"
                        for note, times in self.noted.items()]
