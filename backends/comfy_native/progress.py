"""The host's progress bar: in the node, in the console, and the place where a cancel arrives."""

from __future__ import annotations

import sys
from typing import Any

import comfy.model_management
import comfy.utils
from tqdm import tqdm


class ComfyProgress:
    """``Progress`` on the host.

    Args:
        total: the value at the end.
        label: what the console shows in front of the bar.
    """

    def __init__(self, total: int, label: str) -> None:
        self.total = total
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
        except comfy.model_management.InterruptProcessingException:
            self.console.close()
            raise
