"""Writing a file as a whole or not at all; see ``files.writing``."""

from __future__ import annotations

from ..files.writing import write_bytes as write_atomically

__all__ = ["write_atomically"]
