"""The name of a base model: a hash of the weights as they were loaded and of the patches on them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from .. import fingerprint
from .blocks import unet_of
from .frozen_layers import plain_weight
from .joint_blocks import joint_network_of
from .video_network import is_video

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

PREFIX = "diffusion_model."

# A checkpoint of 2 GB takes seconds to hash, and the weights under the patches never change.
_known: WeakKeyDictionary[torch.nn.Module, str] = WeakKeyDictionary()


def original_weights(model: ModelPatcher) -> Iterator[torch.Tensor]:
    """The network's weights without patches, also while a patched clone is loaded."""
    whole = is_video(model) or joint_network_of(model) is not None
    network = model.model.diffusion_model if whole else unet_of(model)
    for name, weight in network.named_parameters():
        saved = model.backup.get(PREFIX + name)
        yield plain_weight(saved.weight if saved is not None else weight)


def feed(digest: Any, value: Any) -> None:
    """Add a patch's nested values to a hash: tensors by content, adapters by kind and weights."""
    if isinstance(value, torch.Tensor):
        digest.update(fingerprint.of_tensors([plain_weight(value)]).encode())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            feed(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            feed(digest, item)
    elif hasattr(value, "weights"):
        digest.update(type(value).__name__.encode())
        feed(digest, value.weights)
    elif callable(value):
        digest.update(getattr(value, "__qualname__", type(value).__name__).encode())
    else:
        digest.update(repr(value).encode())


def of_model(model: ModelPatcher) -> str:
    """``Backend.fingerprint``: 64 hex digits; for a MODEL without patches the same in every backend."""
    base = model.model
    if base not in _known:
        _known[base] = fingerprint.of_tensors(original_weights(model))
    patches = {key: patch for key, patch in model.patches.items() if key.startswith(PREFIX)}
    if not patches:
        return _known[base]
    digest = hashlib.sha256(_known[base].encode())
    feed(digest, patches)
    return digest.hexdigest()
