"""What a CONDITIONING holds for single frames: a clip's worth of it does not go into a window."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from ..methods.via.editor_clip import MAKER, REFERENCES

#: What a condition can hold for every frame, and how it is given to a streamed edit instead.
ADVICE = {
    "cross_attn": ("prompts", "give one prompt for all frames"),
    "concat_latent_image": ("an image condition", "encode a single frame for it; each window is given its own frames"),
    "concat_mask": ("a mask", "give one mask for all frames"),
    "reference_latents": (
        "reference latents", "make them by Editor Conditioning of a Clip, which does it for each window, or give one "
        "for all frames"),
    "control": ("hints", "give the ControlNet and the hints as a video to this node"),
    "mask": ("masks", "give one mask for all frames"),
}

#: What is made for each window, by methods.via.editor_clip.
MADE = frozenset({"cross_attn", "pooled_output", "attention_mask", REFERENCES})


def check_conditions(conditions: Mapping[str, list[Mapping[str, Any]]], anew: bool = False) -> None:
    """Refuse conditions that hold something for each of several frames.

    Args:
        conditions: of a GUIDER, by name; each a mapping of what it holds, its text as "cross_attn".
        anew: those that can be made for other frames are, in each window.

    Raises:
        ValueError: one sentence with what to do instead.
    """
    for name, entries in conditions.items():
        for entry in entries:
            for key, value in entry.items():
                if anew and MAKER in entry and key in MADE:
                    continue
                frames = max(frames_in(value), default=1)
                if frames > 1:
                    what, advice = ADVICE.get(key, (key, "give one for all frames"))
                    raise ValueError(f"guider: its condition '{name}' holds {what} for {frames} frames, which would be "
                                     f"those of the clip's beginning in every window; {advice}.")


def frames_in(value: Any) -> Iterator[int]:
    """Rows of the tensors in a condition's value, those of a ControlNet's hints included."""
    if isinstance(value, torch.Tensor):
        if value.ndim >= 3:
            yield value.shape[0]
    elif isinstance(value, Mapping):
        for held in value.values():
            yield from frames_in(held)
    elif isinstance(value, (list, tuple)):
        for held in value:
            yield from frames_in(held)
    else:
        control = value
        while control is not None and (hasattr(control, "cond_hint_original") or hasattr(control, "hint")):
            yield from frames_in(getattr(control, "cond_hint_original", getattr(control, "hint", None)))
            yield from frames_in(getattr(control, "extra_concat_orig", None))
            control = getattr(control, "previous_controlnet", getattr(control, "previous", None))
