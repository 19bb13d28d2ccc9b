"""VIA (Gu et al., 2024): long videos edited alike in every frame by an instruction-tuned image editor."""

from .gather_swap import Bank, GatherSwap, LaneCall, active, build_gather_swap, group_frames

__all__ = ["Bank", "GatherSwap", "LaneCall", "active", "build_gather_swap", "group_frames"]
