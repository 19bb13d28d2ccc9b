"""Clones of the host's MODEL with something attached; the MODEL that comes in is never touched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from comfy.patcher_extension import WrappersMP

from ...methods.tuned_weights import is_tuned
from . import planned
from .blocks import refuse_second_owner, sites_of
from .devices import managed, weights_by_device
from .joint_blocks import joint_network_of, joint_sites_of
from .joint_patches import run_joint
from .merging import guard_merges
from .norms import norms_of
from .runtime import check_conditions, run_attached
from .state import KEY, Attached, attached_to

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

    from ...methods.attachment import Attachment


def state_of(model: ModelPatcher) -> Attached:
    """What a MODEL has attached."""
    return attached_to(model.model_options.get("transformer_options", {}))


def with_state(model: ModelPatcher, state: Attached) -> ModelPatcher:
    """A clone that carries ``state``, with the wrappers that put it to work."""
    clone = model.clone()
    clone.model_options.setdefault("transformer_options", {})[KEY] = state
    run = run_attached if joint_network_of(model) is None else run_joint
    wrappers = [(WrappersMP.DIFFUSION_MODEL, run), (WrappersMP.OUTER_SAMPLE, check_conditions),
                (WrappersMP.SAMPLER_SAMPLE, weights_by_device)]
    if any(attachment.plan is not None for attachment in state.attachments):
        wrappers += planned.WRAPPERS
    for kind in {*planned.KINDS, WrappersMP.DIFFUSION_MODEL}:
        clone.remove_wrappers_with_key(kind, KEY)
    for kind, wrapper in wrappers:
        clone.add_wrapper_with_key(kind, KEY, wrapper)
    return clone


def attach(model: ModelPatcher, attachment: Attachment) -> ModelPatcher:
    """A clone with one attachment more; see ``Backend.attach``."""
    sites = sites_of(model) if joint_network_of(model) is None else joint_sites_of(model)
    missing = attachment.sites - {site.path for site in sites}
    if missing:
        raise ValueError(f"model: has no block {min(missing)}, which {attachment.method} was made for; "
                         "use the base model that it was tuned on.")
    known = {site.path for site in norms_of(model)} if attachment.norms is not None else set()
    if unknown := {key.replace("/", ".") for key in attachment.norms or ()} - known:
        raise ValueError(f"model: has no norm layer {min(unknown)}, which {attachment.method} was made for; "
                         "use the base model that it was tuned on.")
    replaced = model.model_options.get("transformer_options", {}).get("patches_replace", {})
    for kind in attachment.replaces:
        refuse_second_owner(replaced, kind, attachment.sites, attachment.method)
    clone = with_state(model, state_of(model).with_attachment(attachment))
    key = f"{KEY}.{attachment.method}"
    clone.remove_additional_models(key)
    if attachment.trees:
        clone.set_additional_models(key, [managed(tree, model.load_device, model.offload_device)
                                          for tree in attachment.trees])  # fmt: skip
    if is_tuned(attachment):
        guard_merges(clone)
    return clone


def add_query_deltas(model: ModelPatcher, deltas: Mapping[str, Tensor]) -> ModelPatcher:
    """A clone with W + delta as ordinary weight patches, so that LoRA loaders before and after it add up.

    Raises:
        ValueError: the MODEL has no such weight, or one of another shape.
    """
    clone = model.clone()
    shapes = {key: tuple(weight.shape) for key, weight in model.model.state_dict().items()}
    patches = {}
    for name, delta in deltas.items():
        key = f"diffusion_model.{name}"
        if shapes.get(key) != tuple(delta.shape):
            raise ValueError(f"model: {name} is {shapes.get(key, 'missing')} here, but the tuned weights hold "
                             f"{tuple(delta.shape)}; use the base model that they were tuned on.")
        patches[key] = ("diff", (delta,))
    clone.add_patches(patches)
    guard_merges(clone, frozenset(patches))
    return clone
