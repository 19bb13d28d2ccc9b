"""LoRA-Edit on clips longer than its model: windows one after the other, each of which goes on where the last ended.

A window's first frames are the last ones of the window before: they stand in its condition in the place of the
source's, and its mask keeps them, as it keeps the edited first frame of the first window. What the model adds to the
colours from window to window would add up; it is measured where the source is kept, outside of the mask, and taken out
of each window before the next one sees it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .masks import hard
from .packing import STRIDE, latent_frames


def latents_of(span: range) -> slice:
    """Latent frames of a window, among those of the whole clip: its noise is that of the clip there."""
    first = span.start // STRIDE
    return slice(first, first + latent_frames(len(span)))


def edit_in_windows(video: Tensor, generate: Tensor, first: Tensor | None, spans: Sequence[range],
                    edit: Callable[[range, Tensor, Tensor], Tensor],
                    match: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None) -> Tensor:
    """The edited clip, [frames, height, width, 3].

    Args:
        video: IMAGE of the source, [frames, height, width, 3].
        generate: 1 where the model generates, [frames, height, width]; see ``condition.generated``.
        first: edited first frame [1, height, width, 3]; None keeps the source's.
        spans: windows, see ``clips.clip_ranges``.
        edit: of a window's frames, what is given for them and where they are generated; returns the window's frames.
        match: of a window's frames, the source's, and [frames, height, width], 1 where their colours shall agree;
            returns the window's frames. Frames that were there already count as 0. None leaves the drift.

    Raises:
        ValueError: the first frame has another size.
    """
    video = video[..., :3]
    if first is not None and (len(first) != 1 or first.shape[1:3] != video.shape[1:3]):
        raise ValueError(f"edited_first_frame: {len(first)} of {first.shape[2]}x{first.shape[1]} pixels, but the video "
                         f"has {video.shape[2]}x{video.shape[1]}; give one frame of the same size.")
    done = video[:0]
    for span in spans:
        # What is there already: the last frames of the window before, or the edited first frame.
        begun = done[span.start :] if len(done) else video[:0] if first is None else first[..., :3].to(video)
        source, where = video[span.start : span.stop], generate[span.start : span.stop].clone()
        where[: len(begun)] = 0
        given = torch.cat([begun, source[len(begun) :]])
        made = edit(span, given, where).to(video) if hard(where).any() else given
        kept = 1 - hard(where)
        kept[: len(begun)] = 0
        # Where all is made anew, as from the first frame alone, there is nothing to measure it by.
        if match is not None and kept.any():
            made = match(made, source, kept)
        done = torch.cat([done, made[len(done) - span.start :]])
    return done

