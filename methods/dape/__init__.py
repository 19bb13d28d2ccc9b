"""DAPE: dual-stage parameter-efficient fine-tuning of one clip, norms first, then a visual adapter."""

from .norm_tune import AdjustableNorm, build_norm_tune
from .visual_adapter import VisualAdapter, build_visual_adapter

__all__ = ["AdjustableNorm", "VisualAdapter", "build_norm_tune", "build_visual_adapter"]
