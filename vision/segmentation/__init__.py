"""From boxes, points and masks to masks: Segment Anything 1 and 2. Knows no host."""

from .prompt import Prediction, Prompt, Segmenter, segment_frame

__all__ = ["Prediction", "Prompt", "Segmenter", "segment_frame"]
