"""The flow-matching editor's later stages: what the first one left wrong, above all shapes and textures.

The loss of `flow_editor`, on families of which three in four change a shape or a texture, and at more noise,

    s = a u / (1 + (a - 1) u),   a = 5:

a new outline is decided upon while there is much noise; at lower levels the noisy latents show it already. The stages
after that have a = 3 and set shares of the kinds of edits, for what it unlearns: styles, of which it sees few pairs,
and pixels outside of the edit. Each begins at the running average of the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from tqdm import tqdm

from ... import models
from ..loop import Run
from .flow_editor import GROW, PLAIN, Pairs, loss_of, release
from .flow_pairs import FORMS_FROM, SCENES, STYLES_FROM

FORMS, SEED = "flow_editor_forms", 71
#: of the second stage, whose rate falls as if it had PLANNED steps
SHIFT, PLANNED = 5.0, 4000
#: those after it: name, steps, highest rate, and the shares of the kinds
LATER_SHIFT = 3.0
LATER = (
    ("flow_editor_settle", 1200, 4.5e-4,
     {"shape": 0.3, "texture": 0.3, "style": 0.2, "colour": 0.1, "background": 0.1}),
    ("flow_editor_finish", 800, 3e-4,
     {"shape": 0.45, "texture": 0.2, "style": 0.15, "colour": 0.1, "background": 0.1}),
)  # fmt: skip
#: chunks of pairs: of the second stage, and those that the later ones have beside them
CHUNKS = range(FORMS_FROM // SCENES, FORMS_FROM // SCENES + 24)
MORE = range(STYLES_FROM // SCENES, STYLES_FROM // SCENES + 3)


def train(steps: int = 2927, batch: int = 24, peak: float = 1.2e-3) -> None:
    """Train on, and publish the running average at the end."""
    torch.manual_seed(SEED)
    network = models.load("flow_editor").train().requires_grad_(True)
    record = models.config_of("flow_editor")
    pairs = Pairs([*CHUNKS, *MORE])
    runs = []

    def stage(run: Run, until: int, chunks: Callable[[int], int], shares: dict[str, float] | None,
              shift: float) -> None:
        for _ in tqdm(range(run.step, until), initial=run.step, total=until, mininterval=20):
            while pairs.chunks < chunks(run.step):
                pairs.grow()
            run.advance(loss_of(network, *pairs.draw(batch, run.generator, shares), run.generator, shift))
        network.load_state_dict(run.ema.average["flow_editor"])
        runs.append(run)

    second = Run(FORMS, {"flow_editor": network}, PLANNED, peak, SEED, ema=0.998, warmup=60, plain=PLAIN)
    if not second.step and FORMS in record:
        raise ValueError("The second stage begins at the weights of the first: run `flow_editor` before it.")
    stage(second, steps, lambda step: min(len(CHUNKS), 3 + step // GROW), None, SHIFT)
    for number, (name, later, highest, shares) in enumerate(LATER, 1):
        run = Run(name, {"flow_editor": network}, later, highest, SEED + number, ema=0.995, warmup=20, plain=PLAIN)
        stage(run, later, lambda _: len(pairs.ahead), shares, LATER_SHIFT)
    for run in runs:
        run.write_curve()
    first = {key: record[key] for key in ("seed", "steps", "planned_steps", "batch", "minutes")}
    release(runs[-1], **first, **{run.name: {"seed": run.seed, "steps": run.step, "peak": run.peak,
                                             "minutes": round(run.minutes, 1)} for run in runs})  # fmt: skip
