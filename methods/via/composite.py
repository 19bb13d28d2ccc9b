"""The edited region put back into the original pixels, since an autoencoder softens even what it keeps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..finite import check_finite
from .latent_mask import check_mask

#: A drift of colour is smaller than this; a larger difference is content, such as an edit that left its mask.
LARGEST = 0.1
#: Narrowest ring around the mask in which colours are compared, in pixels.
RING = 8
#: How fast the offset turns into its mean away from the ring.
FADE = 1e-3


@torch.no_grad()
def composite(
    edited: Tensor, original: Tensor, mask: Tensor, feather: int = 8, grow: int = 0, match_colour: bool = True
) -> Tensor:
    """original + alpha (edited + offset - original), frame by frame.

    alpha (``feathered``) is 1 in the mask and falls to 0 within ``feather`` pixels outside of it;
    beyond them the original is returned bit for bit. ``offset`` is ``colour_offset``.

    Args:
        edited, original: [frames, height, width, channels] in 0 .. 1.
        mask: [frames or 1, height, width], 1 where edited.
        feather: width of the transition in pixels, outside of the mask; 0 cuts hard.
        grow: pixels that the mask is widened by first; a negative number narrows it.
        match_colour: add the offset, without which the edit's colours are left alone.

    Returns:
        Like ``original``.

    Raises:
        ValueError: sizes or numbers of frames that do not fit, an empty mask, or values that are
            not finite.
    """
    mask = _checked(edited, original, mask)
    out = original.clone()
    for i in range(len(original)):
        region = morphed(mask[min(i, len(mask) - 1)].to(out.device)[None, None], grow)[0, 0]
        if region.any():  # else what was edited is hidden in this frame
            out[i] = blended(edited[i].to(out.device), original[i], region, feather, match_colour)
    return out


def blended(edited: Tensor, original: Tensor, region: Tensor, feather: int, match_colour: bool) -> Tensor:
    """``composite`` of one frame.

    Args:
        edited, original: [height, width, channels] on one device.
        region: [height, width] in 0 .. 1, with a pixel that is not 0.
        feather, match_colour: as there.

    Returns:
        Like ``original``; its own bits beyond the feather.
    """
    before, after = (image.movedim(-1, 0)[None].float() for image in (original, edited))
    region = region[None, None]
    if match_colour:
        after = (after + colour_offset(after, before, region, feather)).clamp(0, 1)
    alpha = feathered(region, feather)
    mixed = torch.lerp(before, after, alpha)[0].movedim(0, -1).to(original.dtype)
    return torch.where(alpha[0, 0, :, :, None] > 0, mixed, original)


def feathered(mask: Tensor, feather: int) -> Tensor:
    """alpha = G * dilate(M, ceil(f / 2)), with a Gaussian G of radius floor(f / 2).

    1 where the mask is 1, 0 from f pixels outside of the mask on, distances along the axes.

    Args:
        mask: [1, 1, height, width] in 0 .. 1.
        feather: f.
    """
    inner = feather // 2
    wide = morphed(mask, feather - inner)
    # Rounding must neither let the original through the mask nor the edit beyond the feather.
    soft = torch.maximum(blurred(wide, inner, inner / 2, "replicate"), mask).clamp(max=1)
    return torch.where(morphed(wide, inner) > 0, soft, 0)


def colour_offset(edited: Tensor, original: Tensor, mask: Tensor, feather: int) -> Tensor:
    """The low frequencies of original - edited, taken from a ring R around the mask, where both show the same.

    delta = clip(original - edited, -0.1, 0.1),   m = its mean over R,
    offset = (G * (R delta) + e m) / (G * R + e),   e = 0.001,

    G a Gaussian whose standard deviation is the ring's width. Near the seam this is delta's
    local mean; far inside it is m. Without a ring it is 0.

    Args:
        edited, original: [1, channels, height, width].
        mask: [1, 1, height, width].
        feather: the ring's width, if not below ``RING``.
    """
    width = max(feather, RING)
    ring = ((morphed(mask, width) > 0) & (mask == 0)).to(edited)
    if not ring.any():
        return torch.zeros_like(edited)
    delta = (original - edited).clamp(-LARGEST, LARGEST) * ring
    mean = delta.sum((-2, -1), keepdim=True) / ring.sum()
    near, weight = (blurred(part, 3 * width, width, "constant") for part in (delta, ring))
    return (near + FADE * mean) / (weight + FADE)


def morphed(mask: Tensor, radius: int) -> Tensor:
    """The largest value within ``radius`` pixels along each axis; for a negative one the smallest.

    A flat dilation by a square, as two maxima over lines, for a mask [1, 1, height, width]:
    a general one would cost the square of the radius.
    """
    if radius < 0:
        return -morphed(-mask, -radius)
    if not radius:
        return mask
    lines = max_pool2d(mask, (2 * radius + 1, 1), 1, (radius, 0))
    return max_pool2d(lines, (1, 2 * radius + 1), 1, (0, radius))


def blurred(image: Tensor, radius: int, deviation: float, border: str) -> Tensor:
    """A Gaussian cut off at ``radius`` pixels; ``border`` is kornia's name for what lies beyond the image's."""
    from kornia.filters import gaussian_blur2d

    if not radius:
        return image
    size = 2 * radius + 1
    return gaussian_blur2d(image, (size, size), (deviation, deviation), border_type=border)


def _checked(edited: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """The mask, [frames or 1, height, width], of images that fit each other."""
    if edited.ndim != 4 or edited.shape != original.shape:
        raise ValueError(f"original: {_described(original)}, but edited has {_described(edited)}; "
                         "give the frames that were encoded, in the edit's size.")
    for name, images in (("edited", edited), ("original", original)):
        check_finite(name, images)
    mask = check_mask(mask, len(original))
    if mask.shape[1:] != original.shape[1:3]:
        height, width = original.shape[1:3]
        raise ValueError(f"mask: is {mask.shape[2]}x{mask.shape[1]}, but the images are {width}x{height}; "
                         "give the mask of these frames.")
    return mask


def _described(images: Tensor) -> str:
    """The number and size of images, in words."""
    if images.ndim != 4:
        return f"the shape {tuple(images.shape)}"
    frames, height, width, channels = images.shape
    return f"{frames} frames of {width}x{height} with {channels} channels"
