"""Contact sheets: many stills, or one clip's frames, on one picture."""

from __future__ import annotations

import numpy as np


def sheet(images: list[np.ndarray], columns: int, gap: int = 4) -> np.ndarray:
    """uint8 pictures [H,W,3] of one size -> one uint8 picture, row by row."""
    height, width = images[0].shape[:2]
    rows = -(-len(images) // columns)
    page = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        page[top:top + height, left:left + width] = image
    return page
