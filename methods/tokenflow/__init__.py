"""TokenFlow (Geyer et al., ICLR 2024): keyframes edited together, their features carried to all other frames."""

from .propagation import Source, TokenFlow, build_tokenflow

__all__ = ["Source", "TokenFlow", "build_tokenflow"]
