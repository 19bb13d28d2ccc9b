"""Local latent adaptation with progressive boundary integration (VIA, equation 6)."""

from __future__ import annotations

from torch import Tensor

from .lerp import boundary_blend_lerp
from .reference import boundary_blend_reference

__all__ = ["boundary_blend", "boundary_blend_lerp", "boundary_blend_reference", "ramp_weight", "source_weight"]

READINGS = ("A", "B")


def ramp_weight(step: int, ramp: int) -> float:
    """w = t / T while t <= T, then 1: the factor of equation 6.

    Args:
        step: t, steps completed, from 1.
        ramp: T; with 1 there is no ramp.

    Raises:
        ValueError: one of them is below 1.
    """
    if step < 1 or ramp < 1:
        raise ValueError(f"boundary blend: step {step} of a ramp of {ramp}; both count from 1.")
    return min(step / ramp, 1.0)


def source_weight(keep: Tensor, weight: float, reading: str = "A") -> Tensor:
    """How much of the source a blend takes: w M_keep in reading A, 1 - w (1 - M_keep) in reading B.

    With w = 1 both are M_keep. Arguments as in ``boundary_blend``; the result has the shape of ``keep``.
    """
    return weight * keep if reading == "A" else 1 - weight * (1 - keep)


def boundary_blend(generated: Tensor, source: Tensor, keep: Tensor, weight: float, reading: str = "A") -> Tensor:
    """Mix the generated latent with the source's at the same noise level.

    Equation 6 scales a mask that is 1 in "a central area" by t / T. Two readings of that area:

        A, the region to keep:  z = w M_keep z_src + (1 - w M_keep) z_gen
        B, the region to edit:  z = w M_edit z_gen + (1 - w M_edit) z_src,   M_edit = 1 - M_keep

    For a mask of zeros and ones this is the equation to the letter. Between them, where the
    paper leaves a mask's value as it is, w scales it as well: else a half covered cell would
    begin with more of the source than a fully kept one. Where the source's weight is exactly
    1 or 0, the result is bit for bit the source or the generated latent.

    Args:
        generated: z_gen, [rows, channels, height, width], any float type.
        source: z_src of the same shape, any float type.
        keep: M_keep in 0 .. 1, [rows or 1, 1, height, width].
        weight: w, see ``ramp_weight``.
        reading: "A" or "B".

    Returns:
        The shape and type of ``generated``; the sum runs in float32 (float64 for float64).

    Raises:
        ValueError: shapes do not fit, or an unknown reading.
    """
    if reading not in READINGS:
        raise ValueError(f"reading: {reading!r} is none of {', '.join(READINGS)}.")
    if generated.shape != source.shape:
        raise ValueError(f"boundary blend: latents {tuple(generated.shape)} and {tuple(source.shape)} differ in shape.")
    if keep.ndim != generated.ndim or keep.shape[1] != 1 or keep.shape[2:] != generated.shape[2:] or (
            keep.shape[0] not in (1, len(generated))):
        raise ValueError(f"boundary blend: a mask {tuple(keep.shape)} does not fit latents {tuple(generated.shape)}.")
    return boundary_blend_lerp(generated, source, source_weight(keep, weight, reading))
