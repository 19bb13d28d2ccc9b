"""How a mask-aware LoRA is trained; the defaults are the authors'."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ..tune_recipe import TuneRecipe, outcome_settings
from .choices import NOISE_RANGES, TARGETS

#: Left as they are: keys and values of CLIP vision's tokens, and HunyuanVideo's modulation, which sees no token.
EXCLUDED = ("k_img", "v_img", "add_k_proj", "add_v_proj", "lin")
#: Names of attention in Wan's blocks (host and diffusers), and in HunyuanVideo's. HunyuanVideo's single blocks have
#: one Linear for attention and feed-forward together.
ATTENTION = ("self_attn.", "cross_attn.", "attn1.", "attn2.", "img_attn.", "txt_attn.", "linear1", "linear2")


@dataclass(frozen=True)
class MaskLoRARecipe:
    """How to train.

    Args:
        training: steps, learning rate and so on.
        rank: of the LoRA; its alpha is the same.
        targets: one of ``choices.TARGETS``.
        sigmas: lowest and highest noise level drawn; all of them but for Wan 2.2's experts.
        batch: samples in a step; the authors' is 1.
    """

    training: TuneRecipe = field(
        default_factory=lambda: TuneRecipe(
            steps=100, learning_rate=1e-4, betas=(0.9, 0.99), checkpoint_every=25, queries=False
        )
    )
    rank: int = 16
    targets: str = TARGETS[0]
    sigmas: tuple[float, float] = NOISE_RANGES["all"]
    batch: int = 1

    def outcome_settings(self) -> dict[str, Any]:
        """The part that decides the outcome."""
        settings = {**asdict(self), "training": outcome_settings(self.training)}
        if self.batch == 1:
            del settings["batch"]  # what was trained before there was this setting is found again
        return settings


def targeted(layers: Iterable[str], targets: str) -> list[str]:
    """The layers that train, of all Linear layers in the blocks, by name.

    Args:
        layers: such as ``blocks.0.self_attn.q``, ``double_blocks.0.img_attn.qkv``.

    Raises:
        ValueError: an unknown choice.
    """
    if targets not in TARGETS:
        raise ValueError(f"targets: {targets!r} is none of {', '.join(TARGETS)}.")
    found = [name for name in layers if name.rsplit(".", 1)[-1] not in EXCLUDED]
    if targets == TARGETS[1]:
        found = [name for name in found if any(part in name for part in ATTENTION) and "mod" not in name]
    return found
