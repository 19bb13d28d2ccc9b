"""Training samples of LoRA-Edit, and the order in which a training meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ..finite import finite
from ..prompts import check_every_level
from .choices import WAN
from .clips import clip_ranges
from .condition import condition, generated
from .masks import hard

#: The authors' mix of stage 2: the clip once, every edited frame nine times.
CLIP_REPEATS, FRAME_REPEATS = 1, 9


@dataclass(frozen=True, eq=False)
class Sample:
    """One target with its condition, encoded once; no encoder is needed any more.

    Args:
        latent: LATENT samples of the target, [1, channels, T', h, w], float32, the host's raw scale.
        conditioning: CONDITIONING of one entry, with text, condition latents and mask.
        repeats: how often an epoch holds it.
        label: what messages and previews call it.
        family: of the model that it was made for, see ``choices.FAMILIES``.
    """

    latent: Tensor
    conditioning: list
    repeats: int = 1
    label: str = "clip"
    family: str = WAN


def one_entry(name: str, conditioning: list) -> list:
    """Raise ValueError unless a CONDITIONING is one prompt, at work at every noise level."""
    if len(conditioning) != 1 or conditioning[0][0].shape[0] != 1:
        raise ValueError(f"{name}: expected one prompt, but got {len(conditioning)} entries; connect one "
                         "CLIPTextEncode.")
    check_every_level(name, conditioning)
    return conditioning


def mask_samples(
    encode: Callable[[Tensor], Tensor],
    video: Tensor,
    mask: Tensor | None,
    conditioning: list,
    *,
    keep: str,
    clip_length: int = 0,
    family: str = WAN,
    pooling: str = "any",
    gray: str = "mid-gray",
    soft: bool = False,
    look: Callable[[Tensor], Any] | None = None,
    repeats: int = CLIP_REPEATS,
) -> tuple[Sample, ...]:
    """The clip as one sample, or as several short ones that each keep their own first frame.

    Args:
        encode: IMAGE -> LATENT samples of the video VAE.
        video, mask, keep, soft: see ``condition.generated``.
        conditioning: of the clip's text.
        clip_length: frames of the low-cost clips, 0 for the whole clip; see ``clips.clip_ranges``.
        family, pooling, gray, look: see ``condition.condition``.

    Raises:
        ValueError: a size, length, mask or family that does not fit.
    """
    one_entry("positive", conditioning)
    whole = generated(video, mask, keep, soft)
    made = []
    for span in clip_ranges(len(video), clip_length):
        part, generate = video[span.start : span.stop], whole[span.start : span.stop].clone()
        if keep in ("outside, first frame", "first frame"):
            generate[0] = 0
        if not hard(generate).any() and keep != "everything":
            # Nothing is masked in this stretch: there is nothing to learn from it.
            continue
        found = condition(encode, part, generate, family=family, pooling=pooling, gray=gray, look=look)
        label = f"frames {span.start} to {span.stop - 1}"
        made.append(_sample(encode(part[..., :3]), found.onto(conditioning), repeats, label, family))
    return tuple(made)


def picked(frame: int, original: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """The frame of a clip and its mask, where the clip as a whole was given; -1 takes both as they are.

    Raises:
        ValueError: the clip has no such frame, or the mask is neither one nor one a frame.
    """
    if frame < 0:
        return original, mask
    if frame >= len(original):
        raise ValueError(f"frame: {frame}, but original_frame holds {len(original)} frames, counted from 0; give the "
                         "number of the edited frame, and the clip that it was taken from.")
    if mask is not None:
        mask = mask if mask.ndim == 3 else mask[None]
        if len(mask) not in (1, len(original)):
            raise ValueError(f"mask: {len(mask)} masks, but original_frame holds {len(original)} frames; give the "
                             "frame's mask, or one for each.")
        mask = mask[frame : frame + 1] if len(mask) > 1 else mask
    return original[frame : frame + 1], mask


def frame_sample(
    encode: Callable[[Tensor], Tensor],
    original: Tensor,
    edited: Tensor,
    mask: Tensor | None,
    conditioning: list,
    *,
    family: str = WAN,
    pooling: str = "any",
    gray: str = "mid-gray",
    soft: bool = False,
    look: Callable[[Tensor], Any] | None = None,
    repeats: int = FRAME_REPEATS,
    label: str = "edited frame",
) -> Sample:
    """An edited later frame as a one-frame sample: the original with its region gray is the condition, the edited
    frame the target; no frame is kept as a whole.

    Args:
        original, edited: IMAGE [1, height, width, 3].
        mask: MASK of the frame, 1 where it was edited; None hides all of it (appearance alone).
        conditioning: of the edited frame's text.

    Raises:
        ValueError: frames of different sizes or more than one; a mask that does not fit.
    """
    one_entry("positive", conditioning)
    if len(original) != 1:
        raise ValueError(f"original_frame: {len(original)} frames, but a frame sample is made of one; pick it out of "
                         "the clip (ImageFromBatch).")
    if edited.shape[:3] != original.shape[:3]:
        raise ValueError(f"edited_frame: {len(edited)} of {edited.shape[2]}x{edited.shape[1]} pixels, but the original "
                         f"is 1 of {original.shape[2]}x{original.shape[1]}; give the same frame, edited.")
    generate = generated(original, mask, "nothing" if mask is None else "outside", soft)
    found = condition(encode, original, generate, family=family, pooling=pooling, gray=gray, look=look)
    return _sample(encode(edited[..., :3]), found.onto(conditioning), repeats, label, family)


def _sample(latent: Tensor, conditioning: list, repeats: int, label: str, family: str) -> Sample:
    return Sample(latent.detach().float().cpu().clone(), conditioning, repeats, label, family)


def draw_sample(samples: Sequence[Sample], step: int, seed: int) -> int:
    """Number of the sample at a step: every epoch holds each as often as it repeats, in an order of its own.

    A function of the step alone, so that a resumed training meets what the uninterrupted one would have met.
    """
    tickets: np.ndarray = np.repeat(np.arange(len(samples)), [sample.repeats for sample in samples])
    epoch, place = divmod(step, len(tickets))
    return int(np.random.default_rng((seed, epoch)).permutation(tickets)[place])


def check_samples(samples: Sequence[Sample]) -> None:
    """Raise ValueError where there is nothing to train on, or what cannot be trained together."""
    if not samples:
        raise ValueError("samples: none are connected; add a Mask Sample.")
    families = sorted({sample.family for sample in samples})
    if len(families) > 1:
        raise ValueError(f"samples: are made for {' and '.join(families)}; choose one family for all.")
    for sample in samples:
        if not finite(sample.latent):
            raise ValueError(f"samples: the latent of {sample.label} holds NaN or infinite values; check the VAE.")
