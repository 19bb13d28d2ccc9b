"""Tune-A-Video (Wu et al., ICCV 2023), the baseline that EI2 starts from."""

from .joint_norms import build_joint_norms
from .sparse_causal import build_full_attention, build_sparse_causal
from .temporal import TemporalAttention, build_temporal_attention

__all__ = ["TemporalAttention", "build_full_attention", "build_joint_norms", "build_sparse_causal",
           "build_temporal_attention"]
