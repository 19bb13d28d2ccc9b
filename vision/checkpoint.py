"""Weights that somebody downloaded: found by name, read without running anything that is in them."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.found import walk

#: What weight files are called.
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
#: ``model_type`` of folders that ``segmentation`` and ``grounding`` open.
SEGMENTERS, DETECTORS = ("sam", "sam2", "sam2_video"), ("grounding-dino",)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
#: Under which key training codes wrap the weights.
WRAPPERS = ("model", "state_dict")


def listed(folders: Iterable[Path], kinds: Iterable[str] | None = None, files: bool = True) -> list[str]:
    """Names that a picker offers: weight files, and folders in transformers' format of one of ``kinds`` (None: any).

    Files inside a transformers folder are its own and not listed; ``files=False`` lists none at all.
    """
    found = set()
    for root in map(Path, folders):
        inside: list[Path] = []
        for folder, names in walk(root):
            if any(outer in folder.parents for outer in inside):
                continue
            inner = folder.relative_to(root)
            if folder != root and "config.json" in names:
                inside.append(folder)
                if kinds is None or kind_of(folder) in kinds:
                    found.add(inner.as_posix())
            elif files:
                found |= {(inner / name).as_posix() for name in names if Path(name).suffix.lower() in SUFFIXES}
    return sorted(found)


def kind_of(folder: Path) -> str:
    """``model_type`` of a folder in transformers' format; "" where there is none."""
    try:
        return str(json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type", ""))
    except (OSError, ValueError, AttributeError):
        return ""


@contextmanager
def opening_folder(path: Path, expected: str, label: str = "model") -> Iterator[None]:
    """Load a folder in transformers' format inside the ``with``, from safetensors and without running its code.

    Raises:
        ValueError: its weights are a pickle, it needs code of its own, or it cannot be loaded; one
            sentence. Neither library's advice to load it anyway is passed on.
    """
    from safetensors import SafetensorError

    path = Path(path)
    names = [file.name for file in path.iterdir()] if path.is_dir() else []
    pickles = sorted(name for name in names if Path(name).suffix in PICKLES)
    if pickles and not any(name.endswith(".safetensors") for name in names):
        raise ValueError(f"{label}: the folder '{path.name}' holds its weights as a pickle ('{pickles[0]}'), which is "
                         "not opened; put model.safetensors of the same model there.")
    try:
        yield
    except (OSError, RuntimeError, ValueError, KeyError, TypeError, ImportError, AttributeError,
            SafetensorError) as error:
        reason = " ".join(str(error).split("\n")[0].split())[:160] or type(error).__name__
        own = "trust_remote_code" in str(error) or _brings_code(path)
        why = "it needs code of its own, which is not run" if own else reason.rstrip(".")
        raise ValueError(f"{label}: the folder '{path.name}' cannot be loaded ({why}); expected {expected}.") from error


def _brings_code(folder: Path) -> bool:
    """Whether a configuration in the folder names Python files of its own."""
    for path in folder.glob("*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(content, Mapping) and "auto_map" in content:
            return True
    return False


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


def numbered(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many layers the keys number: 1 + the largest number that ``pattern`` finds in them, 0 without any."""
    return 1 + max((int(found[1]) for key in weights if (found := re.match(pattern, key))), default=-1)


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
