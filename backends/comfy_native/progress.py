"""The host's progress bar: in the node, in the console, and the place where a cancel arrives."""

from __future__ import annotations

import sys
from time import monotonic
from typing import Any

import comfy.model_management
import comfy.utils
from comfy_execution.utils import get_executing_context
from tqdm import tqdm

#: Seconds between texts in the node, and after which there is one at all.
EVERY, SLOW = 1.0, 2.0


def show_text(text: str) -> None:
    """Show a text in the node at work. Without a server, as in tests, there is nobody to show it to."""
    context = get_executing_context()
    instance = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if context is not None and instance is not None:
        instance.send_progress_text(text, context.node_id)


def in_words(label: str, value: int, total: int, done: int, seconds: float, numbers: dict[str, float]) -> str:
    """Such as "tuning: 120 of 500, loss 0.0833, 2:05 left"; ``done`` of them took the seconds."""
    parts = [f"{label}: {value} of {total}", *(f"{name} {number:.3g}" for name, number in numbers.items())]
    left = seconds * (total - value) / done if value < total else None
    took = seconds if left is None else left
    clock = f"{int(took) // 60}:{int(took) % 60:02}"
    return ", ".join([*parts, f"{clock} left" if left is not None else f"took {clock}"])


class ComfyProgress:
    """``Progress`` on the host.

    Args:
        total: the value at the end.
        label: what the console shows in front of the bar.
    """

    def __init__(self, total: int, label: str) -> None:
        self.total, self.label = total, label
        self.began = self.shown_at = monotonic()
        self.first: int | None = None
        self.bar = comfy.utils.ProgressBar(total)
        self.console = tqdm(total=total, desc=label, file=sys.stderr, mininterval=0.5)

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        """Show a value, a picture and numbers.

        Raises:
            comfy.model_management.InterruptProcessingException: the user cancelled.
        """
        self.console.update(max(value - self.console.n, 0))
        if numbers:
            self.console.set_postfix({name: f"{number:.4g}" for name, number in numbers.items()}, refresh=False)
        if value >= self.total:
            self.console.close()
        try:
            comfy.model_management.throw_exception_if_processing_interrupted()
            image = None if preview is None else ("JPEG", preview, max(preview.size))
            self.bar.update_absolute(value, self.total, image)
            self._show(value, numbers)
        except comfy.model_management.InterruptProcessingException:
            self.console.close()
            raise

    def _show(self, value: int, numbers: dict[str, float]) -> None:
        now = monotonic()
        if self.first is None:
            # A training that goes on from a checkpoint begins with most of its steps done.
            self.first, self.began = value, now
        late = now - self.began >= SLOW and (now - self.shown_at >= EVERY or value >= self.total)
        if late and value > self.first:
            self.shown_at = now
            show_text(in_words(self.label, value, self.total, value - self.first, now - self.began, numbers))
