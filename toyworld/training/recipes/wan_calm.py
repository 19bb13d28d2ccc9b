"""The image-to-video transformer's last stage: clips at the pace that the toy world's video model has.

The earlier stages' clips move twice as fast. What they teach, to carry a first frame along, is all of this stage's task
but the pace; its loss is theirs.
"""

from __future__ import annotations

import torch

from ... import models
from ...models import wan
from ...world.clips import SLOWER
from ..loop import Run, publish
from . import wan_deeper
from .wan import PLAIN, advance, encoder_stamp

SEED = 55


def train(steps: int = 3600, batch: int = 8, peak: float = 1e-3, chunks: int = 120, compiled: bool = False) -> None:
    """Train from the second stage's running average, and publish this one's."""
    before = wan_deeper.train(compiled=compiled)
    torch.manual_seed(SEED)
    network = wan_deeper.build()
    network.load_state_dict(before.ema.average["wan"])
    run = Run("wan_calm", {"wan": network}, steps, peak, SEED, ema=0.998, warmup=60, plain=PLAIN)
    release(advance(run, SLOWER, batch, chunks, 50, compiled), batch)


def release(run: Run, batch: int) -> None:
    """Publish the running average."""
    publish("wan", run.ema.average["wan"], {
        "recipe": "toyworld/training/recipes/wan.py, wan_deeper.py, wan_calm.py", "seed": SEED, "steps": run.step,
        "planned_steps": run.steps, "batch": batch, "minutes": round(run.minutes, 1),
        "parameters": sum(p.numel() for p in wan.build().parameters()), "architecture": wan.CONFIG, "slower": SLOWER,
        "shift": wan.SHIFT, "encoder": encoder_stamp(),
        "text_encoder_sha256": models.config_of("text_encoder")["sha256"]})
