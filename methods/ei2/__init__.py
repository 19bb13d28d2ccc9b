"""EI2 (Zhang et al., NeurIPS 2023): Towards Consistent Video Editing with Text-to-Image Diffusion Models.

Two blocks turn a text-to-image U-Net into a video model that one clip can tune without
shifting the features that the pretrained layers expect: STAM (attention over frames) and
FFAM (self-attention that sees the other frames coarsely).
"""

from .ffam import build_ffam
from .stam import STAM, build_stam

__all__ = ["STAM", "build_ffam", "build_stam"]
