"""RAVE (Kara et al., CVPR 2024): frames are denoised in grids of several, shuffled at every step."""

from .frame_grid import from_grid, to_grid
from .shuffling import Rave, build_rave, denoise_in_grids

__all__ = ["Rave", "build_rave", "denoise_in_grids", "from_grid", "to_grid"]
