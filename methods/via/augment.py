"""VIA's tuning set: one random affine map on both images of a root pair (paper, appendix on implementation)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AffineRanges:
    """Ranges that the maps are drawn from, uniformly; the defaults are the paper's.

    Args:
        rotation: degrees to either side.
        translation: share of width and of height, to either side.
        shear: degrees to either side, along x.
        crop: smallest and largest side of the crop, as a share of the image's.
    """

    rotation: float = 5.0
    translation: float = 0.05
    shear: float = 10.0
    crop: tuple[float, float] = (0.75, 1.0)


PUBLISHED = AffineRanges()


def random_maps(count: int, height: int, width: int, seed: int, ranges: AffineRanges = PUBLISHED) -> Tensor:
    """Random maps of pixel positions, source -> result: M = C T R S.

    S shears along x, R rotates, both about the image's centre; T translates; C cuts out a box of
    the image's proportions, anywhere inside, and enlarges it to the whole size again. Positions
    are pixel centres, (0, 0) the first.

    Args:
        count: number of maps.
        height, width: of the images.
        seed: of a generator of its own.

    Returns:
        float64 [count, 3, 3].
    """
    from kornia.geometry.transform import get_affine_matrix2d

    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(count, 7, generator=generator, dtype=torch.float64)
    symmetric = 2 * drawn[:, :4] - 1
    size = torch.tensor([width, height], dtype=torch.float64)
    affine = get_affine_matrix2d(
        translations=symmetric[:, :2] * ranges.translation * size,
        center=((size - 1) / 2).expand(count, 2),
        scale=torch.ones(count, 2, dtype=torch.float64),
        angle=symmetric[:, 2] * ranges.rotation,
        sx=torch.deg2rad(symmetric[:, 3] * ranges.shear),
    )
    smallest, largest = ranges.crop
    side = smallest + (largest - smallest) * drawn[:, 4, None]
    corner = drawn[:, 5:] * (1 - side) * size
    # Pixel p covers p - 1/2 .. p + 1/2, so that a crop keeps the edges of its box on the image's edges.
    crop = torch.eye(3, dtype=torch.float64).repeat(count, 1, 1)
    crop[:, :2, :2] /= side[:, :, None]
    crop[:, :2, 2] = (0.5 - corner) / side - 0.5
    return crop @ affine


def warped(images: Tensor, maps: Tensor) -> Tensor:
    """Every image under every map, bilinear, what lies outside mirrored at the border.

    Args:
        images: IMAGE [n, height, width, channels].
        maps: [count, 3, 3], see ``random_maps``.

    Returns:
        [n, count, height, width, channels] in the images' dtype.
    """
    from kornia.geometry.transform import warp_affine

    height, width = images.shape[1:3]
    planes = images.movedim(-1, 1).float()
    rows = maps[:, :2].to(planes)
    results = [
        warp_affine(image.expand(len(maps), -1, -1, -1), rows, (height, width), padding_mode="reflection")
        for image in planes
    ]
    return torch.stack(results).movedim(2, -1).to(images.dtype)
