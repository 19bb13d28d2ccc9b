"""How good pictures look to a vision-language model, from 1 to 5, as Q-Align and DeQA-Score read it off the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from .captions import Captioner

#: DeQA's question, the beginning of the answer, and the words that may go on from it, with what each counts for.
QUESTION, BEGUN = "How would you rate the quality of this image?", "The quality of the image is"
LEVELS = {"excellent": 5, "good": 4, "fair": 3, "poor": 2, "bad": 1}


def quality(captioner: Captioner, frame: Tensor) -> float:
    """The expected level of a picture: sum_k k p_k.

    p is the softmax over the logits of the five level words behind *The quality of the image is* (You et al. 2025,
    "Teaching Large Language Models to Regress Accurate Image Quality Scores using Score Distribution", inference).

    Args:
        frame: [height, width, 3] in 0..1.

    Raises:
        ValueError: the model answers no questions, or cannot tell the words apart.
    """
    odds = captioner.odds(frame, QUESTION, BEGUN, tuple(LEVELS))
    return float(odds @ torch.tensor(list(LEVELS.values()), dtype=odds.dtype))


def qualities(captioner: Captioner, frames: Tensor, report: Callable[[int], None] = lambda done: None) -> list[float]:
    """``quality`` of each frame [F, height, width, 3]; ``report`` is called with the number that are done."""
    scores = []
    for frame in frames:
        scores.append(quality(captioner, frame))
        report(len(scores))
    return scores
