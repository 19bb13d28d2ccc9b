"""All methods by their slug, so that a file of tuned weights can name what it needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .attachment import Attachment, BlockSite
from .ei2 import build_ffam, build_stam
from .rave import build_rave
from .tune_a_video import build_full_attention, build_sparse_causal, build_temporal_attention
from .via import build_gather_swap

BUILDERS = {
    "stam": build_stam,
    "ffam": build_ffam,
    "sparse-causal": build_sparse_causal,
    "temporal-attention": build_temporal_attention,
    "full-attention": build_full_attention,
    "gather-swap": build_gather_swap,
    "rave": build_rave,
}


def build(method: str, sites: Sequence[BlockSite], config: Mapping[str, Any]) -> Attachment:
    """Build the attachment of one method.

    Args:
        method: a key of ``BUILDERS``.
        sites: all transformer blocks of the U-Net.
        config: keyword arguments of the builder.

    Raises:
        ValueError: an unknown method or setting.
    """
    if method not in BUILDERS:
        raise ValueError(f"method: this version knows {', '.join(BUILDERS)}, but not {method!r}.")
    try:
        return BUILDERS[method](sites, **config)
    except TypeError as error:
        raise ValueError(f"method {method}: settings {dict(config)} do not fit ({error}).") from error
