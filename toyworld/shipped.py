"""Where the trained weights lie; imports nothing, so that a list of models can look there at once."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).parent / "weights"
