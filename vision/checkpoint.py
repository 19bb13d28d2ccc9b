"""Weights that somebody downloaded: found by name, read without running anything that is in them."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

#: What weight files are called.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
#: Under which key training codes wrap the weights.
WRAPPERS = ("model", "state_dict")


def listed(folders: Iterable[Path], kinds: Iterable[str] | None = None, files: bool = True) -> list[str]:
    """Names that a picker offers: weight files, and folders in transformers' format of one of ``kinds`` (None: any).

    Files inside a transformers folder are its own and not listed; ``files=False`` lists none at all.
    """
    found = set()
    for root in map(Path, folders):
        configs = sorted(root.rglob("config.json"))
        inside = {path.parent for path in configs}
        found |= {path.parent.relative_to(root).as_posix() for path in configs
                  if path.parent != root and (kinds is None or kind_of(path.parent) in kinds)}
        found |= {path.relative_to(root).as_posix() for path in root.rglob("*")
                  if files and path.suffix in SUFFIXES and not inside & set(path.parents)}
    return sorted(found)


def located(folders: Iterable[Path], name: str, label: str = "model") -> Path:
    """The file or folder ``name`` in one of ``folders``.

    Raises:
        FileNotFoundError: it is in none of them.
        ValueError: the name leads out of them.
    """
    folders = [Path(folder) for folder in folders]
    for folder in folders:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise ValueError(f"{label}: '{name}' leaves the models folder; use a name inside it.")
        if name and path.exists():
            return path
    looked = " or ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"{label}: '{name}' is not in {looked}; put it there and reload the page.")


def kind_of(folder: Path) -> str:
    """``model_type`` of a folder in transformers' format; "" where there is none."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


def read_weights(path: Path, label: str = "model") -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a pickle that holds nothing but weights.

    Args:
        path: the file.
        label: the input that named it, for the errors.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no weights file, or a pickle with code in it.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{label}: '{path.name}' is not in {path.parent}.")
    if path.suffix == ".safetensors":
        return _safetensors(path, label)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, KeyError, ValueError, AttributeError) as error:
        raise ValueError(f"{label}: '{path.name}' is damaged, or a pickle that holds more than weights, and is not "
                         "opened; download it again, as .safetensors where that is offered.") from error
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return _named_tensors(content, path, label)


def _safetensors(path: Path, label: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{label}: '{path.name}' is damaged or no safetensors file ({error}); "
                         "download it again.") from error


def _named_tensors(content: Any, path: Path, label: str) -> dict[str, Tensor]:
    """``content`` if it is a mapping of names to tensors; a ``module.`` in front is what parallel training leaves."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{label}: '{path.name}' is a pickle, but not of weights; choose a checkpoint of the model.")
    return {key.removeprefix("module."): value for key, value in content.items()}


def load_strictly(module: torch.nn.Module, weights: Mapping[str, Tensor], name: str, label: str = "model",
                  ignored: tuple[str, ...] = ()) -> None:
    """Put weights into a module; every key must have its place and every place its key.

    Args:
        ignored: parts of keys that may be missing or left over (buffers that are computed).

    Raises:
        ValueError: keys or shapes do not fit.
    """
    try:
        result = module.load_state_dict(dict(weights), strict=False)
    except RuntimeError as error:
        sizes = str(error).splitlines()[-1].strip()
        raise ValueError(f"{label}: '{name}' has weights of other sizes than its keys promise ({sizes}).") from error
    wrong = [key for key in (*result.missing_keys, *result.unexpected_keys)
             if not any(part in key for part in ignored)]
    if wrong:
        raise ValueError(f"{label}: '{name}' does not fit its architecture: {len(wrong)} keys are missing or left "
                         f"over, such as {wrong[0]}; it is damaged or of another model.")
