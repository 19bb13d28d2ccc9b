"""What a rehearsal asserts. Each check returns nothing, or raises a Fault with the reason."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ...video.clip import Audio, as_rate
from ...video.read import read_clip

#: Sound may begin or end so many seconds beside the source's: an AAC frame and its priming.
SOUND_SECONDS = 0.05
#: Loudest value of what counts as silence.
SILENT = 1e-3
#: Largest difference, in units of the values' deviation, that the same weights loaded from a file may make.
SAME = 2e-2
#: A training of two steps must change the result by more than that.
CHANGED = 5e-2
#: What counts as another picture where the edit belongs, of 1.
EDITED = 0.02
#: A mask's values above this are inside: what comes out of a video file is not quite white.
INSIDE = 0.9
PACKED = ("concat_latent_image", "concat_mask")


class Fault(ValueError):
    """A check that does not hold; the reason in words."""


def video(saved: Path, frames: int, fps: float, tone: float | None) -> None:
    """The saved file has the source's number of frames, rate and sound, and is not one flat colour.

    Args:
        saved: a video.
        frames, fps: of the source.
        tone: what the source sounds, in Hz; None for a silent one.
    """
    clip = read_clip(saved)
    if len(clip.frames) != frames:
        raise Fault(f"{saved.name} has {len(clip.frames)} frames, the source {frames}")
    if clip.fps != as_rate(fps):
        raise Fault(f"{saved.name} has {float(clip.fps):g} frames a second, the source {fps:g}")
    if tone is not None:
        sound(saved.name, clip.audio, frames / fps, tone)
    if clip.frames.std() < 1e-3:
        raise Fault(f"{saved.name} shows one flat colour")


def sound(name: str, audio: Audio | None, seconds: float, tone: float) -> None:
    """A sound of that length whose loudest frequency is the source's."""
    if audio is None:
        raise Fault(f"{name} has no sound, the source has")
    heard, rate = audio["waveform"][0].mean(0), audio["sample_rate"]
    if abs(len(heard) / rate - seconds) > SOUND_SECONDS:
        raise Fault(f"{name} has {len(heard) / rate:.2f} s of sound for {seconds:.2f} s of pictures")
    if heard.abs().max() < SILENT:
        raise Fault(f"{name} has a silent sound")
    loudest = torch.fft.rfft(heard).abs().argmax().item() * rate / len(heard)
    if abs(loudest - tone) > 2 * rate / len(heard):
        raise Fault(f"{name} sounds at {loudest:.0f} Hz, the source at {tone:.0f} Hz")


def finite(name: str, tensors: dict[str, Tensor]) -> None:
    """No NaN and no infinity, and something is there."""
    if not sum(tensor.numel() for tensor in tensors.values()):
        raise Fault(f"{name} is empty")
    for place, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise Fault(f"{name} holds NaN or infinite values ({place})")


def distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference, in units of the deviation of ``theirs``."""
    if ours.shape != theirs.shape:
        return float("inf")
    return ((ours - theirs).abs().max() / theirs.std().clamp(min=1e-6)).item()


def same(name: str, first: dict[str, Tensor], again: dict[str, Tensor], plain: dict[str, Tensor]) -> None:
    """What was trained gives the same latents again from its file, and others than the model without it."""
    for place, tensor in first.items():
        if (off := distance(again[place], tensor)) > SAME:
            raise Fault(f"{name}, loaded from its file, gives another result ({off:.3g} deviations off)")
    if max(distance(plain[place], tensor) for place, tensor in first.items()) < CHANGED:
        raise Fault(f"{name} changes nothing: the model without it gives the same result")


def packing(condition: dict[str, Tensor], independent: dict[str, Tensor]) -> None:
    """Every entry of a CONDITIONING has the latents and the mask of an independent packing."""
    for wanted in PACKED:
        found = [tensor for place, tensor in condition.items() if place.endswith(wanted)]
        if not found:
            raise Fault(f"the condition has no {wanted}")
        for tensor in found:
            if tensor.shape != independent[wanted].shape:
                raise Fault(f"{wanted} is {tuple(tensor.shape)}, an independent packing "
                            f"{tuple(independent[wanted].shape)}")
            if (off := distance(tensor, independent[wanted])) > SAME:
                raise Fault(f"{wanted} is another one than an independent packing ({off:.3g} deviations off)")


def composite(original: Tensor, result: Tensor, mask: Tensor, reach: int) -> None:
    """Outside of the mask and its feather the frames are the source's bit for bit; inside they are not.

    Args:
        original, result: [frames, height, width, 3] in 0..1.
        mask: [frames or 1, height, width], 1 where to edit.
        reach: pixels by which the edit may go beyond the mask.
    """
    hard = (mask > 0).float().expand(len(original), -1, -1)
    grown = torch.nn.functional.max_pool2d(hard[:, None], 2 * reach + 1, 1, reach)[:, 0] > 0
    if not (~grown).any():
        raise Fault("the mask with its feather covers every pixel, so that nothing shows what is kept")
    if not torch.equal(original[~grown], result[~grown]):
        most = (original - result)[~grown].abs().max().item()
        raise Fault(f"the picture changed outside of the mask, by {255 * most:.3g} of 255")
    inside = mask.expand(len(original), -1, -1) > INSIDE
    if not inside.any():
        raise Fault("the mask is empty, so that nothing shows what is edited")
    if (original - result)[inside].abs().mean() < EDITED:
        raise Fault("the picture did not change inside of the mask")
