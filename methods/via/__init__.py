"""VIA (Gu et al., 2024): long videos edited alike in every frame by an instruction-tuned image editor."""

from .gather_swap import GatherSwap, active, build_gather_swap, group_frames
from .group_attention import GroupAttention, KeyValueCache

__all__ = ["GatherSwap", "GroupAttention", "KeyValueCache", "active", "build_gather_swap", "group_frames"]
