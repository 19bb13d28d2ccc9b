"""All methods by their slug, so that a file of tuned weights can name what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .attachment import Attachment, BlockSite, NormSite
from .dape import build_norm_tune, build_visual_adapter
from .ei2 import build_ffam, build_stam
from .rave import build_rave
from .tune_a_video import build_full_attention, build_sparse_causal, build_temporal_attention
from .via import build_gather_swap

if TYPE_CHECKING:
    from ..backends.protocol import Backend

BUILDERS = {
    "stam": build_stam,
    "ffam": build_ffam,
    "sparse-causal": build_sparse_causal,
    "temporal-attention": build_temporal_attention,
    "full-attention": build_full_attention,
    "gather-swap": build_gather_swap,
    "rave": build_rave,
    "norm-tune": build_norm_tune,
    "visual-adapter": build_visual_adapter,
}

#: Methods that change norm layers: their builder takes ``NormSite`` in the place of ``BlockSite``.
ON_NORMS = frozenset({"norm-tune"})


def build_on(backend: Backend, model: Any, method: str, config: Mapping[str, Any]) -> Attachment:
    """``build`` for the layers of a MODEL."""
    return build(method, backend.sites(model), config, backend.norms(model) if method in ON_NORMS else ())


def build(
    method: str, sites: Sequence[BlockSite], config: Mapping[str, Any], norms: Sequence[NormSite] = ()
) -> Attachment:
    """Build the attachment of one method.

    Args:
        method: a key of ``BUILDERS``.
        sites: all transformer blocks of the U-Net.
        config: keyword arguments of the builder.
        norms: all norm layers of the U-Net, for the methods in ``ON_NORMS``.

    Raises:
        ValueError: an unknown method or setting.
    """
    if method not in BUILDERS:
        raise ValueError(f"method: this version knows {', '.join(BUILDERS)}, but not {method!r}.")
    try:
        return BUILDERS[method](norms if method in ON_NORMS else sites, **config)
    except TypeError as error:
        raise ValueError(f"method {method}: settings {dict(config)} do not fit ({error}).") from error
