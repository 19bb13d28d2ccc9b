"""What the trained classifier sees in pictures."""

from __future__ import annotations

import torch
from torch import nn

from . import load_classifier
from .classifier import HEADS, crop_resize


def classify(images: torch.Tensor, boxes: torch.Tensor | None = None, model: nn.Module | None = None) -> dict:
    """Name what each picture shows.

    Args:
        images: [B,H,W,3] in 0..1. boxes: as in `crop_resize`. model: a Classifier; None = the trained one.
    Returns: head -> list of B names, and head + "_probs" -> [B, classes].
    """
    if model is None:
        model = load_classifier()
    with torch.no_grad():
        logits = model(crop_resize(images, boxes))
    answer: dict = {}
    for name, values in logits.items():
        answer[name] = [HEADS[name][i] for i in values.argmax(1).tolist()]
        answer[name + "_probs"] = values.softmax(1)
    return answer
