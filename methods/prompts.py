"""What trainings and inversions ask of a CONDITIONING beside its shape."""

from __future__ import annotations

from typing import Any


def check_every_level(name: str, conditioning: list[Any]) -> None:
    """Raise ValueError unless at every noise level one of the prompts is at work (Conditioning Set Timestep Range)."""
    reached = 0.0
    spans = [(extra.get("start_percent", 0.0), extra.get("end_percent", 1.0)) for _, extra in conditioning]
    for start, end in sorted(spans):
        if start > reached:
            break
        reached = max(reached, end)
    if reached < 1:
        raise ValueError(f"{name}: no prompt is at work from {reached:.0%} of the steps on, but this node needs one at "
                         "every noise level; remove Conditioning Set Timestep Range or fill the gap with a prompt.")
