"""All methods by their slug: how each is built, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .approximate_windows import build_approximate_windows
from .attachment import Attachment, BlockSite, NormSite
from .dape import build_norm_tune, build_visual_adapter
from .ei2 import build_ffam, build_stam
from .ei2.ffam import check_ratio
from .prompt_to_prompt import build_prompt_to_prompt
from .rave import build_rave
from .simda import build_simda
from .tokenflow import build_tokenflow
from .traits import Traits
from .tune_a_video import build_full_attention, build_joint_norms, build_sparse_causal, build_temporal_attention
from .via import build_gather_swap

if TYPE_CHECKING:
    from ..backends.protocol import Attaching


@dataclass(frozen=True)
class Method:
    """One entry of the registry.

    Args:
        build: ``build(sites, **config) -> Attachment``.
        traits: what the method is.
        check_size: ``check_size(config, height, width)`` raises ValueError where a latent's size does not fit.
        on_transformers: it works on diffusion transformers with joint attention, too.
        on_norms: it changes norm layers: ``build`` takes ``NormSite`` in the place of ``BlockSite``.
    """

    build: Callable[..., Attachment]
    traits: Traits
    on_norms: bool = False
    on_transformers: bool = False
    check_size: Callable[[Mapping[str, Any], int, int], None] | None = None


#: Every frame sees the others in each block, tuned on the clip: over all blocks, a frame depends on the whole clip.
AMONG_FRAMES = Traits(mixes_frames=True, needs_whole_clip=True, trains_on_clip=True)

METHODS = {
    "stam": Method(build_stam, AMONG_FRAMES),
    "ffam": Method(build_ffam, AMONG_FRAMES, check_size=check_ratio),
    "sparse-causal": Method(build_sparse_causal, AMONG_FRAMES),
    "temporal-attention": Method(build_temporal_attention, AMONG_FRAMES),
    "simda": Method(build_simda, AMONG_FRAMES),
    "joint-norms": Method(build_joint_norms, Traits(mixes_frames=True, needs_whole_clip=True), on_norms=True),
    "full-attention": Method(build_full_attention, AMONG_FRAMES),
    "gather-swap": Method(build_gather_swap, Traits(mixes_frames=True, uses_reference_frames=True,
                                                    changes_sampling_only=True), on_transformers=True),
    "rave": Method(build_rave, Traits(mixes_frames=True, needs_whole_clip=True, changes_sampling_only=True)),
    "tokenflow": Method(build_tokenflow, Traits(mixes_frames=True, needs_whole_clip=True, changes_sampling_only=True,
                                                needs_inversion=True)),
    "prompt-to-prompt": Method(build_prompt_to_prompt, Traits(changes_sampling_only=True, keeps_state=True)),
    # Beside a method, and only there: the clip is cut for it, so that a frame still hangs on all others.
    "approximate-windows": Method(build_approximate_windows, Traits(mixes_frames=True, needs_whole_clip=True)),
    "norm-tune": Method(build_norm_tune, Traits(trains_on_clip=True), on_norms=True),
    "visual-adapter": Method(build_visual_adapter, Traits(trains_on_clip=True)),
}  # fmt: skip

#: Builders by slug.
BUILDERS = {slug: method.build for slug, method in METHODS.items()}


def traits(method: str) -> Traits:
    """What a method is.

    Raises:
        ValueError: an unknown method.
    """
    return known(method).traits


def check_size(attachments: Iterable[Attachment], height: int, width: int) -> None:
    """Raise ValueError (one sentence) where what is attached does not fit a latent of this size."""
    for attachment in attachments:
        method = METHODS.get(attachment.method)
        if method is not None and method.check_size is not None:
            method.check_size(attachment.config, height, width)


def known(method: str) -> Method:
    """The entry of a slug.

    Raises:
        ValueError: an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"method: this version knows {', '.join(METHODS)}, but not {method!r}.")
    return METHODS[method]


def build_on(backend: Attaching, model: Any, method: str, config: Mapping[str, Any]) -> Attachment:
    """``build`` for the layers of a MODEL."""
    sites = backend.joint_sites(model) if known(method).on_transformers else []
    return build(method, sites or backend.sites(model), config, backend.norms(model) if known(method).on_norms else ())


def build(
    method: str, sites: Sequence[BlockSite], config: Mapping[str, Any], norms: Sequence[NormSite] = ()
) -> Attachment:
    """Build the attachment of one method.

    Args:
        method: a key of ``METHODS``.
        sites: all transformer blocks of the U-Net.
        config: keyword arguments of the builder.
        norms: all norm layers of the U-Net, for the methods that change them.

    Raises:
        ValueError: an unknown method or setting.
    """
    entry = known(method)
    try:
        return entry.build(norms if entry.on_norms else sites, **config)
    except TypeError as error:
        raise ValueError(f"method {method}: settings {dict(config)} do not fit ({error}).") from error
