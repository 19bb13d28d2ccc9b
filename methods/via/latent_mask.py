"""From a mask of pixels to edit to the latent cells to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ..finite import check_finite


def check_mask(mask: Tensor, frames: int, name: str = "mask") -> Tensor:
    """A MASK of a clip as [frames or 1, height, width] in 0 .. 1.

    Args:
        mask: [height, width] or [masks, height, width], 1 where to edit.
        frames: of the clip.
        name: of the input, for the message.

    Raises:
        ValueError: another shape or number of masks, values that are not finite, or nothing to edit.
    """
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or mask.shape[0] not in (1, frames):
        raise ValueError(f"{name}: {tuple(mask.shape)} is not one mask, nor one for each of the {frames} frames; "
                         "give the mask of the same frames.")
    check_finite(name, mask)
    if not (mask > 0).any():
        raise ValueError(f"{name}: is empty, so that nothing would be edited; paint or detect what to edit, 1 inside.")
    return mask.float().clamp(0, 1)


def keep_mask(mask: Tensor, frames: int, height: int, width: int, soft: bool = True, name: str = "mask") -> Tensor:
    """M_keep at the latent's size: 1 - the mask's mean over each cell.

    A cell without a masked pixel is exactly 1, a wholly masked one exactly 0. A mask of another
    size is brought to the latent's by area.

    Args:
        mask: [masks, height', width'], 1 where to edit; one mask serves all frames.
        frames, height, width: of the latent.
        soft: False gives 0 to every cell with a masked pixel.
        name: of the input, for the message.

    Returns:
        [masks, 1, height, width], float32.

    Raises:
        ValueError: as ``check_mask``, or a mask of other proportions than the clip.
    """
    mask = check_mask(mask, frames, name)
    rows, columns = mask.shape[1:]
    # Within a cell: a VAE cuts a picture to whole cells.
    if abs(columns * height / rows - width) >= 1 and abs(rows * width / columns - height) >= 1:
        raise ValueError(f"{name}: {columns}x{rows} has other proportions than the clip of {width * 8}x{height * 8}; "
                         "give the mask of the frames that were encoded.")
    covered = interpolate(mask[:, None], size=(height, width), mode="area")
    return 1 - (covered if soft else covered.ceil())


#: Frames to a latent frame behind the first, of the video VAEs that hosts know, the likely ones first.
STRIDES = (4, 8, 6, 2, 1)


def video_keep_mask(mask: Tensor, frames: int, height: int, width: int, soft: bool = True, stride: int | None = None,
                    name: str = "mask") -> Tensor:
    """M_keep of a video latent, whose VAE encodes the first frame alone and then ``stride`` at a time.

    A latent cell is kept as far as none of its frames is masked there: the mean over space of the largest over time.

    Args:
        mask: [height', width'], or [masks, height', width'] with one mask for all frames, one for every latent frame
            or one for every frame of the clip, 1 where to edit.
        frames, height, width: of the latent.
        soft: as ``keep_mask``.
        stride: of the VAE; None: the likeliest one that fits the numbers of masks and frames.

    Returns:
        [1, 1, frames or 1, height, width], float32.

    Raises:
        ValueError: as ``keep_mask``.
    """
    if mask.ndim == 3 and len(mask) not in (1, frames):
        known = STRIDES if stride is None else (stride,)
        fits = next((n for n in known if (len(mask) - 1) // n + 1 == frames), None)
        if fits is None:
            raise ValueError(f"{name}: {len(mask)} masks do not fit a latent of {frames} frames, which are "
                             f"{(frames - 1) * known[0] + 1} frames of video; give one mask, or those of the same "
                             "frames.")
        check_mask(mask, len(mask), name)
        # A last group that is not full is not encoded.
        groups = mask[1 : 1 + (frames - 1) * fits].unflatten(0, (frames - 1, fits)).amax(1) if frames > 1 else mask[:0]
        mask = torch.cat([mask[:1], groups])
    return keep_mask(mask, frames, height, width, soft, name).movedim(0, 1)[None]


def keep_mask_of(mask: Tensor, shape: Sequence[int], soft: bool = True, stride: int | None = None) -> Tensor:
    """M_keep of a LATENT of any form.

    Args:
        shape: [frames, channels, height, width]; [clips, channels, frames, height, width] of a video; or pictures in
            that form, a row each with one frame, as Qwen-Image has them.
        soft, stride: as ``video_keep_mask``.

    Returns:
        [frames or 1, 1, height, width]; [1, 1, frames or 1, height, width]; [frames or 1, 1, 1, height, width].

    Raises:
        ValueError: as ``keep_mask``.
    """
    rows, _, *times, height, width = shape
    if not times:
        return keep_mask(mask, rows, height, width, soft)
    if rows > 1 and times == [1]:
        return keep_mask(mask, rows, height, width, soft)[:, :, None]
    return video_keep_mask(mask, times[0], height, width, soft, stride)
