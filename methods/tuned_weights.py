"""Tuned weights: what a file of them holds, and putting them onto a MODEL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .attachment import Attachment, named_tensors
from .registry import build
from .tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    from ..backends.protocol import Backend

FORMAT_VERSION = 1
QUERY_PREFIX = "queries."
METADATA_KEY = "steadyedit"


@dataclass(frozen=True, eq=False)
class TunedWeights:
    """The outcome of a tuning, independent of a host.

    Args:
        tensors: float32 on the CPU. ``<method>.<site path>.<name>`` are weights of
            attached modules, spectral normalisation already applied;
            ``queries.<site path>.<attn1.to_q|attn2.to_q>.weight`` are differences from the
            base model's query weights.
        metadata: JSON-able. ``version`` of the format, ``methods`` (list of method and
            config, in order), ``base`` (fingerprint of the base model), ``recipe``,
            ``losses``.
    """

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, Any] = field(default_factory=dict)


def save_tuned(path: Path, weights: TunedWeights) -> None:
    """Write a safetensors file, as a whole or not at all.

    Raises:
        OSError: one sentence with the reason; no partial file is left.
    """
    write_tensors(path, weights.tensors, METADATA_KEY, dict(weights.metadata))


def load_tuned(path: Path) -> TunedWeights:
    """Read what ``save_tuned`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no whole safetensors file, or not one of tuned weights, or newer
            than this version.
    """
    path = Path(path)
    try:
        tensors, metadata = read_tensors(path, METADATA_KEY)
    except ValueError as error:
        raise ValueError(f"{path.name}: not a whole file of weights tuned by SteadyEdit.") from error
    if metadata.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path.name}: has format version {metadata.get('version')}; this version reads {FORMAT_VERSION}."
        )
    return TunedWeights(tensors, metadata)


def apply_tuned(backend: Backend, model: Any, weights: TunedWeights) -> Any:
    """A clone of the MODEL with all methods of the tuning attached and its queries shifted.

    Raises:
        ValueError: the weights were tuned on another base, name an unknown method, or are
            not complete.
    """
    base = backend.fingerprint(model)
    tuned_on = weights.metadata.get("base", "")
    if tuned_on != base:
        raise ValueError(
            f"model: these weights were tuned on another base model ({tuned_on[:12]}) than the one given ({base[:12]})."
        )
    sites = backend.sites(model)
    used = set()
    for entry in weights.metadata["methods"]:
        attachment = build(entry["method"], sites, entry["config"])
        used |= fill(attachment, weights.tensors)
        freeze(attachment)
        model = backend.attach(model, attachment)
    deltas = {n.removeprefix(QUERY_PREFIX): t for n, t in weights.tensors.items() if n.startswith(QUERY_PREFIX)}
    unknown = weights.tensors.keys() - used - {QUERY_PREFIX + name for name in deltas}
    if unknown:
        raise ValueError(f"weights: {len(unknown)} tensors belong to no method in the file, such as {min(unknown)}.")
    return backend.add_query_deltas(model, deltas) if deltas else model


def fill(attachment: Attachment, tensors: Mapping[str, Tensor]) -> set[str]:
    """Copy saved tensors into the attachment's modules; returns the names used.

    Raises:
        ValueError: one is missing or has another shape.
    """
    own = named_tensors(attachment)
    with torch.no_grad():
        for name, parameter in own.items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise ValueError(f"weights: {name} is missing or has another shape than the model needs.")
            parameter.copy_(tensors[name])
    return set(own)


def freeze(attachment: Attachment) -> None:
    """Mark filled modules as final: no gradients, normalisation already in the weights."""
    if attachment.modules is not None:
        attachment.modules.requires_grad_(False).eval()
        for module in attachment.modules.values():
            if hasattr(module, "baked"):
                module.baked = True
