"""The condition of a mask-aware image-to-video model: a clip with gray where it generates, and the mask itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..finite import check_finite
from .choices import GRAYS, HUNYUAN, HUNYUAN_2, HUNYUAN_15, KEEPS, POOLINGS, WAN
from .masks import hard
from .packing import CELL, check_frames, latent_frames, packed, packed_single, pooled

#: The transformer's patches take 2x2 cells; HunyuanVideo 1.5's one cell of twice the side.
SIDE = 2 * CELL


@dataclass(frozen=True)
class Form:
    """The form in which a family of models reads its condition.

    Args:
        channels, cell: of a latent, and pixels to a side of one of its cells.
        pack: pooled cells -> the mask's channels.
        hard: the host rounds the mask.
        alone: where nothing but the first frame is kept, it is encoded alone, as in the model's own training.
        filled: zeros stand for the frames behind it; the host fills them in where not.
    """

    channels: int = 16
    cell: int = CELL
    pack: Callable[[Tensor], Tensor] = packed_single
    hard: bool = False
    alone: bool = True
    filled: bool = False


FORMS = {WAN: Form(pack=packed, alone=False), HUNYUAN: Form(hard=True),
         HUNYUAN_15: Form(channels=32, cell=2 * CELL, filled=True)}  # fmt: skip


def check_family(family: str) -> None:
    """Raise ValueError for a model without a mask, or an unknown one."""
    if family == HUNYUAN_2:
        raise ValueError(f"family: {HUNYUAN_2} replaces the first frame's tokens and has no mask channel, so that it "
                         f"cannot keep a region; use {WAN}, {HUNYUAN} or {HUNYUAN_15}.")
    if family not in FORMS:
        raise ValueError(f"family: {family!r} is none of {', '.join(FORMS)}.")


def check_video(name: str, video: Tensor) -> None:
    """Raise ValueError unless an IMAGE has 4N + 1 frames and sides that the transformer's patches divide."""
    if video.ndim != 4 or video.shape[-1] < 3:
        raise ValueError(f"{name}: expected [frames, height, width, 3], but got {tuple(video.shape)}.")
    check_frames(name, len(video))
    for side in video.shape[1:3]:
        if side % SIDE or not side:
            down = side // SIDE * SIDE or SIDE
            raise ValueError(f"{name}: {video.shape[2]}x{video.shape[1]} pixels, but both sides must divide by {SIDE}; "
                             f"scale or crop {side} to {down} or {side // SIDE * SIDE + SIDE}.")


def check_mask(name: str, mask: Tensor | None, video: Tensor) -> Tensor:
    """A MASK as [frames, height, width], float32, of the clip's own size.

    Raises:
        ValueError: missing, of another size, or all ones or zeros.
    """
    if mask is None:
        raise ValueError(f"{name}: is missing; connect what to edit, or keep something else.")
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.ndim != 3 or mask.shape[1:] != video.shape[1:3] or len(mask) not in (1, len(video)):
        raise ValueError(f"{name}: {tuple(mask.shape)} is neither one mask nor {len(video)} of "
                         f"{video.shape[2]}x{video.shape[1]} pixels; give the mask of the same frames.")
    check_finite(name, mask)
    mask = mask.detach().cpu().float().clamp(0, 1)
    if not hard(mask).any():
        raise ValueError(f"{name}: selects nothing, so that nothing would be edited; paint or track the object, "
                         "1 inside.")
    if hard(mask).all():
        raise ValueError(f"{name}: selects every pixel of every frame, so that nothing would be kept; give a smaller "
                         "mask, or keep the first frame only.")
    return mask.expand(len(video), -1, -1)


def generated(video: Tensor, mask: Tensor | None, keep: str, soft: bool = False, name: str = "mask") -> Tensor:
    """G = 1 - M by pixels, [frames, height, width]: 1 where the model generates.

    Args:
        video: IMAGE [frames, height, width, 3].
        mask: MASK, 1 where to edit; used where ``keep`` names the outside.
        keep: one of ``choices.KEEPS``.
        soft: leave values between 0 and 1; else a pixel counts as masked from 0.5 on.

    Raises:
        ValueError: see ``check_mask``; an unknown ``keep``.
    """
    if keep not in KEEPS:
        raise ValueError(f"keep: {keep!r} is none of {', '.join(KEEPS)}.")
    if keep in ("outside, first frame", "outside"):
        mask = check_mask(name, mask, video)
        generate = (mask if soft else hard(mask)).clone()
    else:
        generate = torch.full(video.shape[:3], float(keep != "everything"))
    if keep in ("outside, first frame", "first frame"):
        generate[0] = 0
    return generate


def pseudo_video(video: Tensor, generate: Tensor, gray: float) -> Tensor:
    """V (1 - G) + gray G: one gray where the model generates.

    Args:
        video: V, [frames, height, width, 3] in 0 .. 1.
        generate: G, [frames, height, width], 1 where the model generates.
        gray: of ``choices.GRAYS``, in 0 .. 1.
    """
    wide = generate[..., None].to(video)
    return video * (1 - wide) + gray * wide


@dataclass(frozen=True, eq=False)
class Condition:
    """What goes into a CONDITIONING, under the host's own keys.

    Args:
        concat_latent_image: raw latents of the pseudo-video, [1, 16, T', h, w] ([1, 32, ...] for HunyuanVideo 1.5);
            of its first frame alone where HunyuanVideo keeps no more: it was trained with zeros behind it, which the
            host fills in for v1.
        concat_mask: 1 where the model generates, [1, 4, T', h, w], for HunyuanVideo [1, 1, T', h, w].
        clip_vision_output: the host's own value for the first frame, or None.
    """

    concat_latent_image: Tensor
    concat_mask: Tensor
    clip_vision_output: Any = None

    def onto(self, conditioning: list) -> list:
        """The CONDITIONING with these values in every entry; the given one stays as it is."""
        values = {"concat_latent_image": self.concat_latent_image, "concat_mask": self.concat_mask}
        if self.clip_vision_output is not None:
            values["clip_vision_output"] = self.clip_vision_output
        return [[embedding, {**extra, **values}] for embedding, extra in conditioning]


def condition(
    encode: Callable[[Tensor], Tensor],
    video: Tensor,
    generate: Tensor,
    *,
    family: str = WAN,
    pooling: str = "any",
    gray: str = "mid-gray",
    first: Tensor | None = None,
    look: Callable[[Tensor], Any] | None = None,
) -> Condition:
    """Condition latents by ONE encode of the whole pseudo-video, and the packed mask.

    Args:
        encode: IMAGE -> LATENT samples of the video VAE.
        video: IMAGE [frames, height, width, 3], see ``check_video``.
        generate: see ``generated``.
        family: of the model, see ``choices.FAMILIES``.
        pooling: see ``packing.pooled``.
        gray: of the pseudo-video where the model generates, see ``choices.GRAYS``.
        first: edited first frame [1, height, width, 3], in the place of the clip's own.
        look: IMAGE of one frame -> CLIP vision's output; sees the first frame, the edited one where it is given.

    Raises:
        ValueError: HunyuanVideo v2; a size, length or first frame that does not fit.
    """
    check_family(family)
    check_video("video", video)
    if pooling not in POOLINGS:
        raise ValueError(f"pooling: {pooling!r} is none of {', '.join(POOLINGS)}.")
    if gray not in GRAYS:
        raise ValueError(f"gray: {gray!r} is none of {', '.join(GRAYS)}.")
    video = video[..., :3]
    if first is not None:
        if first.shape[0] != 1 or first.shape[1:3] != video.shape[1:3]:
            raise ValueError(f"edited_first_frame: {first.shape[0]} of {first.shape[2]}x{first.shape[1]} pixels, but "
                             f"the video has {video.shape[2]}x{video.shape[1]}; give one frame of the same size.")
        video = torch.cat([first[..., :3].to(video), video[1:]])
    form = FORMS[family]
    generate = hard(generate) if form.hard else generate
    masked = pseudo_video(video, generate, GRAYS[gray])
    if form.alone and len(video) > 1 and not generate[0].any() and bool((generate[1:] == 1).all()):
        masked = masked[:1]
    cells = pooled(generate, pooling, form.cell)
    latent = encode(masked)
    expected = (form.channels, latent_frames(len(masked)), *cells.shape[1:])
    if latent.ndim != 5 or latent.shape[1:] != expected:
        raise ValueError(f"vae: made {tuple(latent.shape)} of {len(masked)} frames, but the video VAE of {family} "
                         f"gives [1, {', '.join(map(str, expected))}]; load that of the model.")
    if form.filled:
        latent = pad(latent, (0, 0, 0, 0, 0, latent_frames(len(video)) - latent.shape[2]))
    return Condition(latent, form.pack(cells), look(video[:1]) if look is not None else None)
