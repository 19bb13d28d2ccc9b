"""Core's model merges, told where they would take half of a tuning.

A merge scales or copies weights. What is attached to a MODEL is no weight: of the second model it is left behind, and
of the first it stays whole beside tuned queries that are scaled down. Both give wrong pictures without a word.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from comfy.patcher_extension import CallbacksMP

from .state import KEY

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher

#: On a patcher: keys of weights whose differences belong to something attached.
HELD = "steadyedit_tuned_keys"


def guard_merges(patcher: ModelPatcher, keys: frozenset[str] = frozenset()) -> None:
    """Let merges of this MODEL and of all its clones end in one sentence.

    Args:
        keys: of weights that carry tuned differences.
    """
    held = getattr(patcher, HELD, frozenset()) | keys
    setattr(patcher, HELD, held)
    # Not the patcher itself: in a circle the host would find it alive after it is let go.
    own, kind = weakref.ref(patcher), type(patcher)

    def get_key_patches(filter_prefix: str | None = None) -> Any:
        # The host itself asks for all keys; merges ask for those of the U-Net.
        if filter_prefix is not None:
            raise ValueError("model2: has tuned weights of this pack on it, of which a merge would take the queries "
                             "and leave the attached modules behind; merge the models first and tune the result.")
        return kind.get_key_patches(own(), filter_prefix)

    def add_patches(patches: dict, strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        if strength_model != 1.0 and any((key if isinstance(key, str) else key[0]) in held for key in patches):
            raise ValueError("model1: has tuned weights of this pack on it, of which a merge would scale the queries "
                             "and keep the attached modules whole; merge the models first and tune the result.")
        return kind.add_patches(own(), patches, strength_patch, strength_model)

    patcher.get_key_patches, patcher.add_patches = get_key_patches, add_patches
    patcher.remove_callbacks_with_key(CallbacksMP.ON_CLONE, KEY)
    patcher.add_callback_with_key(CallbacksMP.ON_CLONE, KEY, _follow)


def _follow(old: ModelPatcher, new: ModelPatcher) -> None:
    guard_merges(new, getattr(old, HELD, frozenset()))
