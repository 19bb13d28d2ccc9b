"""Null-text inversion (Mokady et al., 2022): an unconditional text for every step, by which guidance gives the clip
back."""

from .inversion import NullText, NullTextRecipe, invert
from .per_step import per_step_conditioning

__all__ = ["NullText", "NullTextRecipe", "invert", "per_step_conditioning"]
