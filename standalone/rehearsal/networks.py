"""Folders in transformers' format of small networks that find and describe things."""

from __future__ import annotations

from pathlib import Path

from ..graph import GraphError


def write(path: Path, folder: str) -> None:
    """Write the folder that a picker of ``models/<folder>`` names.

    Raises:
        GraphError: it is of a kind that is not known here.
    """
    raise GraphError(f"models/{folder}/{path.name}: no narrow network of this kind is known.")
