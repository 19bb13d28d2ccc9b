"""From a mask of pixels to edit to the latent cells to keep."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import interpolate


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
    if not mask.isfinite().all():
        raise ValueError(f"{name}: holds NaN or infinite values.")
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
