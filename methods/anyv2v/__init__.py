"""AnyV2V (Ku, Wei, Ren, Yang, Chen, TMLR 2024): an image-to-video model continues an edited first frame, led by what
it computes of the source."""

from .edit import FINER, Network, edit
from .injection import Features, Injection, injected_attention, injected_blocks

__all__ = ["FINER", "Features", "Injection", "Network", "edit", "injected_attention", "injected_blocks"]
