"""An edited crop back into its plate."""

from __future__ import annotations

import torch
from torch import Tensor

from ..finite import check_finite
from ..via.composite import RING, blended
from ..via.latent_mask import check_mask
from .boxes import Crop, resized


@torch.no_grad()
def stitched(original: Tensor, edited: Tensor, crop: Crop, mask: Tensor | None = None, feather: int = 16,
             match_colour: bool = False, progress=lambda done: None) -> Tensor:
    """The original with each frame's edited box blended in; beyond the feather it is the original bit for bit.

    The edited region is the mask, without a margin of ``feather`` pixels at those edges of the box that lie
    inside of the plate: so the seam (``composite``'s) ends within the box. Without a mask it is all of the box
    but this margin. One frame is at work at a time, so that memory beside the result does not grow with the clip.

    Args:
        original: [frames, height, width, channels], what was cropped.
        edited: [frames, h, w, 3 or channels], the crop after its edit, at any size of its proportions. Channels that it
            lacks (alpha) stay the original's.
        crop: where it lies.
        mask: [frames or 1, height, width] of the plate or [.., h, w] of the crop, 1 where edited.
        feather: width of the seam in pixels of the plate.
        match_colour: shift the edit's colours to the original's around the region.
        progress: is called with the number of frames done.

    Raises:
        ValueError: frames, sizes or channels that do not fit the crop, or values that are not finite.
    """
    check(original, edited, crop)
    region = None if mask is None else check_mask(mask, len(original))
    of_plate = region is not None and region.shape[1:] == original.shape[1:3]
    if region is not None and not of_plate and not same_shape(region.shape[1:], crop):
        raise ValueError(f"mask: is {region.shape[2]}x{region.shape[1]}, but the original is {crop.plate_width}x"
                         f"{crop.plate_height} and the crop {crop.out_width}x{crop.out_height}; give a mask of either.")
    out, channels = original.clone(), edited.shape[-1]
    for i in range(len(original)):
        x1, y1, x2, y2 = crop.inside(i)
        own = (slice(y1 - crop.top[i], y2 - crop.top[i]), slice(x1 - crop.left[i], x2 - crop.left[i]))
        inner = interior(crop, i, max(feather, RING if match_colour else 0))
        if region is not None:
            one = region[min(i, len(region) - 1)]
            one = one[y1:y2, x1:x2] if of_plate else resized(one[..., None], crop.height, crop.width)[own][..., 0]
            inner = torch.minimum(inner, one.to(inner))
        if inner.any():
            after = resized(edited[i].to(out.device), crop.height, crop.width)[own]
            plate = out[i, y1:y2, x1:x2, :channels]
            plate.copy_(blended(after, plate, inner.to(out.device), feather, match_colour))
        progress(i + 1)
    return out


def interior(crop: Crop, frame: int, margin: int) -> Tensor:
    """1 inside of the part of a box on the plate, 0 within ``margin`` of its edges that are not the plate's own."""
    x1, y1, x2, y2 = crop.inside(frame)
    inner = torch.ones(y2 - y1, x2 - x1)
    if margin:
        # Where the box covers the plate from side to side there is no seam.
        if x1 > 0:
            inner[:, :margin] = 0
        if x2 < crop.plate_width:
            inner[:, -margin:] = 0
        if y1 > 0:
            inner[:margin] = 0
        if y2 < crop.plate_height:
            inner[-margin:] = 0
    return inner


def same_shape(size: tuple[int, int], crop: Crop) -> bool:
    """Whether height and width are those of the crop's pictures, or in their proportions to a pixel."""
    height, width = size
    return abs(width * crop.out_height - height * crop.out_width) <= max(crop.out_height, crop.out_width)


def check(original: Tensor, edited: Tensor, crop: Crop) -> None:
    """Raise ValueError, naming the input, where frames, sizes or channels do not fit."""
    size = f"{crop.plate_width}x{crop.plate_height}"
    if original.ndim != 4 or original.shape[1:3] != (crop.plate_height, crop.plate_width):
        raise ValueError(f"original: the crop was taken from frames of {size}, but these have the shape "
                         f"{tuple(original.shape)}; give the frames that went into Crop to Mask.")
    if len(original) != len(crop.left):
        raise ValueError(f"original: has {len(original)} frames, but {len(crop.left)} were cropped; give the frames "
                         "that went into Crop to Mask.")
    if edited.ndim != 4 or len(edited) != len(original):
        raise ValueError(f"edited: has {len(edited)} frames, but {len(original)} were cropped; edit all of them, or "
                         "crop fewer.")
    if not same_shape(edited.shape[1:3], crop):
        raise ValueError(f"edited: is {edited.shape[2]}x{edited.shape[1]}, but the crop was {crop.out_width}x"
                         f"{crop.out_height}; give it in these proportions.")
    if edited.shape[-1] not in (3, original.shape[-1]):
        raise ValueError(f"edited: has {edited.shape[-1]} channels, but the original {original.shape[-1]}; give 3, or "
                         "as many.")
    for name, images in (("original", original), ("edited", edited)):
        check_finite(name, images)
