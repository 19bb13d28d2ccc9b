"""Networks that nodes open from the host's models folders: what is there, the chosen file, the type to compute in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comfy_api.latest import io

PRECISIONS = ["auto", "float32", "float16", "bfloat16"]


def precision_input(optional: bool = False) -> io.Combo.Input:
    """The widget for the type to compute in."""
    return io.Combo.Input("precision", options=PRECISIONS, default="auto", optional=optional, tooltip="Type of the "
                          "calculation: auto is half precision on a graphics card that computes in it, else float32.")


def dtype_of(precision: str) -> Any:
    """The torch type of that widget's value."""
    import torch

    from .. import backends

    return backends.manager().precision() if precision == "auto" else getattr(torch, precision)


def names(folder: str, kinds: Iterable[str] | None = None, files: bool = True) -> list[str]:
    """What a picker over one of the models folders offers."""
    from .. import backends
    from ..vision.checkpoint import listed

    return listed(backends.manager().folders(folder), kinds, files)


def chosen(folder: str, name: str, expected: str) -> Path:
    """The file or folder of a picker.

    Raises:
        FileNotFoundError: there is none, with the folder and the names that were looked for.
    """
    from .. import backends
    from ..files.found import located

    folders = backends.manager().folders(folder)
    try:
        return located(folders, name)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"model: '{name}' is not in {' or '.join(map(str, folders))}; put {expected} there "
                                "and reload the page.") from error


def stamp(folder: str, name: str) -> Any:
    """A value that changes when the file does."""
    from .. import backends
    from ..files.found import located
    from ..files.found import stamp as stamped

    try:
        return name, stamped(located(backends.manager().folders(folder), name))
    except (OSError, ValueError):
        return name


def checked_when_it_runs(cls, model: Any = None) -> bool | str:
    """``validate_inputs`` of a picker: that the file is there is checked where its folder can be named."""
    return True


def changing_with(folder: str) -> Any:
    """``fingerprint_inputs`` of a picker over one of the models folders."""
    return classmethod(lambda cls, model=None, **rest: stamp(folder, model or ""))
