"""Tuned weights: what a file of them holds, and putting them onto a MODEL."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .attachment import Attachment, named_tensors
from .content_hash import content_hash
from .registry import build_on
from .stored import check_tensors
from .tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    from ..backends.protocol import Attaching

log = logging.getLogger(__name__)

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
            ``losses``. Of weights tuned on top of other methods: ``base`` is that of
            ``base_name``, and ``architecture`` says which models they fit.
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
            than this version; its values were changed after it was written, or are not finite.
    """
    path = Path(path)
    try:
        tensors, metadata = read_tensors(path, METADATA_KEY)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path.name}: ")
        raise ValueError(f"{path.name}: not a whole file of weights tuned by SteadyEdit ({reason[:-1]}); "
                         "choose another, or tune and save it anew.") from error
    if not isinstance(metadata, dict) or not _known_methods(metadata.get("methods", [])):
        raise ValueError(f"{path.name}: not a whole file of weights tuned by SteadyEdit (it names no method of this "
                         "pack); choose one that Save Tuned Weights wrote.")
    check_tensors(path, tensors)
    if metadata.get("version") != FORMAT_VERSION:
        raise ValueError(
            f"{path.name}: has format version {metadata.get('version')}; this version reads {FORMAT_VERSION}; "
            "update SteadyEdit."
        )
    return TunedWeights(tensors, metadata)


def _known_methods(methods: Any) -> bool:
    """Whether this is a list of methods as a file's metadata has it."""
    return isinstance(methods, list) and all(
        isinstance(entry, dict) and isinstance(entry.get("method"), str) and isinstance(entry.get("config"), dict)
        for entry in methods
    )


def apply_tuned(backend: Attaching, model: Any, weights: TunedWeights, strength: float | None = None,
                only: Collection[str] | None = None) -> Any:  # fmt: skip
    """A clone of the MODEL with all methods of the tuning attached and its queries shifted.

    Args:
        strength: of methods that have one; 0 is bit for bit the MODEL. None: as tuned.
        only: methods to take out of the file, without the queries; None takes everything.

    Raises:
        ValueError: the weights were tuned on another base (where they name the architecture
            that they fit: on another architecture), name an unknown method, are not complete,
            have no strength, or lack a method in ``only``.
    """
    check_base(backend, model, weights)
    held = [entry["method"] for entry in weights.metadata["methods"]]
    if missing := sorted(set(only or ()) - set(held)):
        raise ValueError(f"weights: hold {', '.join(held) or 'no method'}, but no {missing[0]}; choose another file.")
    used, tensors = set(), weights.tensors
    if only is not None:
        tensors = {name: tensor for name, tensor in tensors.items() if name.split(".", 1)[0] in only}
    for entry in weights.metadata["methods"]:
        if only is not None and entry["method"] not in only:
            continue
        config = dict(entry["config"])
        if strength is not None:
            if "strength" not in config:
                raise ValueError(f"weights: {entry['method']} has no strength; apply these weights as they are.")
            config["strength"] = strength
        attachment = build_on(backend, model, entry["method"], config)
        used |= load_parameters(attachment, tensors)
        freeze(attachment)
        model = backend.attach(model, attachment)
    deltas = {n.removeprefix(QUERY_PREFIX): t for n, t in tensors.items() if n.startswith(QUERY_PREFIX)}
    unknown = tensors.keys() - used - {QUERY_PREFIX + name for name in deltas}
    if unknown:
        raise ValueError(f"weights: {len(unknown)} tensors belong to no method in the file, such as {min(unknown)}.")
    return backend.add_query_deltas(model, deltas) if deltas else model


def check_base(backend: Attaching, model: Any, weights: TunedWeights) -> None:
    """Raise ValueError where weights do not belong on a MODEL.

    What is tuned on top of other methods moves between them, and between models of one
    architecture: then another base is only worth a warning.
    """
    tuned_on, fits = weights.metadata.get("base", ""), weights.metadata.get("architecture")
    if fits is not None and fits != architecture(backend, model):
        raise ValueError("model: these weights were tuned on a model with other layers; "
                         "use one of the architecture that they were tuned on.")
    base = base_name(backend, model, [entry["method"] for entry in weights.metadata["methods"]] if fits else None)
    if tuned_on == base:
        return
    if fits is None:
        raise ValueError(
            f"model: these weights were tuned on another base model ({tuned_on[:12]}) than the one given ({base[:12]})."
        )
    log.warning("model: these weights were tuned on another base (%s) than the one given (%s); they are applied "
                "all the same.", tuned_on[:12], base[:12])


def architecture(backend: Attaching, model: Any) -> str:
    """Hash of the names and shapes of a MODEL's transformer blocks and norm layers, 64 hex digits."""
    sites = [[site.path, site.channels, site.heads] for site in backend.sites(model)]
    return str(content_hash(sites, [[norm.path, norm.channels, norm.groups] for norm in backend.norms(model)]))


def base_name(backend: Attaching, model: Any, methods: Collection[str] | None) -> str:
    """The name of what ``methods`` were tuned on: the U-Net's fingerprint, and what else is at work in training.

    With None, or where nothing else is attached, it is ``Host.fingerprint``.
    """
    base = backend.fingerprint(model)
    others = [] if methods is None else [
        [a.method, dict(a.config), named_tensors(a)] for a in backend.attachments(model)
        # What changes sampling alone has no part in a training.
        if a.method not in methods and a.plan is None
    ]  # fmt: skip
    return str(content_hash(base, others)) if others else base


def load_parameters(attachment: Attachment, tensors: Mapping[str, Tensor]) -> set[str]:
    """Copy saved tensors into the attachment's modules; returns the names used.

    Raises:
        ValueError: one is missing or has another shape.
    """
    own = named_tensors(attachment)
    with torch.no_grad():
        for name, parameter in own.items():
            if name not in tensors or tensors[name].shape != parameter.shape:
                raise ValueError(f"weights: {name} is missing or has another shape than the model needs; connect the "
                                 "model that they were tuned on.")
            parameter.copy_(tensors[name])
    return set(own)


def check_untuned(backend: Attaching, model: Any, method: str) -> None:
    """Raise ValueError where a method would begin anew although the MODEL has its tuned weights, which would go."""
    if any(a.method == method and is_tuned(a) for a in backend.attachments(model)):
        raise ValueError(f"model: {method} is on it already, with tuned weights, which would be lost while the rest of "
                         "the tuning stayed; take this node out, or give it the model from before the tuning.")


def is_tuned(attachment: Attachment) -> bool:
    """Whether an attachment has weights that a training has made final."""
    parameters = [p for tree in attachment.trees for p in tree.parameters()]
    return bool(parameters) and not any(p.requires_grad for p in parameters)


def freeze(attachment: Attachment) -> None:
    """Mark filled modules as final: no gradients, normalisation already in the weights."""
    for tree in attachment.trees:
        tree.requires_grad_(False).eval()
        for module in tree.values():
            if hasattr(module, "baked"):
                module.baked = True
