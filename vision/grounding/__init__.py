"""From words to boxes: Grounding DINO. Knows no host."""

from .detector import Detector, Network, prepared_text

__all__ = ["Detector", "Network", "prepared_text"]
