"""The vocabulary that methods and backends share: where a method sits in a U-Net and what it adds there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class FrameLayout:
    """How a batch of tokens [branches * frames, height * width, channels] is laid out.

    A branch is one condition of the guidance (positive, negative, ...). Each branch holds
    all frames in order; tokens run row by row over the feature map.
    """

    branches: int
    frames: int
    height: int
    width: int


@dataclass(frozen=True)
class BlockSite:
    """One transformer block, by its path in an LDM checkpoint.

    The LDM path (``input_blocks.1.1.transformer_blocks.0``) is the one name that every
    backend translates to its own, so that tuned weights move between hosts unchanged.
    """

    path: str
    channels: int
    heads: int

    @property
    def stage(self) -> str:
        """``input``, ``middle`` or ``output``."""
        return self.path.split("_", 1)[0]

    @property
    def key(self) -> str:
        """The path as a key of ``nn.ModuleDict``, which forbids dots."""
        return self.path.replace(".", "/")


class FrameMixing(Protocol):
    """Replaces softmax(QK^T)V of a self-attention. Owns no weights.

    q, k, v: [branches * frames, tokens, heads * head_dim], already projected; returns the
    same shape, before the output projection.
    """

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, heads: int, layout: FrameLayout) -> Tensor: ...


@dataclass(frozen=True)
class Attachment:
    """What one method adds to a U-Net.

    Args:
        method: slug in ``methods.registry``.
        config: JSON-able settings, enough to build the attachment again.
        mixing: replaces the mixing of self-attention in the blocks named by ``sites``.
        modules: ``nn.ModuleDict`` by ``BlockSite.key``; each runs after the feed-forward,
            ``module(z, layout) -> z`` on [branches * frames, tokens, channels].
        sites: paths of the blocks that the attachment touches.
        queries: projections whose weight the method tunes, relative to a block
            (``attn1.to_q``, ``attn2.to_q``).
    """

    method: str
    config: Mapping[str, Any] = field(default_factory=dict)
    mixing: FrameMixing | None = None
    modules: nn.ModuleDict | None = None
    sites: frozenset[str] = frozenset()
    queries: tuple[str, ...] = ()

    def __deepcopy__(self, memo: dict) -> Attachment:
        # Hosts deep-copy the options of a model on every clone; an attachment is immutable
        # and its weights are shared by all clones on purpose.
        return self


def named_tensors(attachment: Attachment) -> dict[str, Tensor]:
    """The parameters of the attachment's modules by their saved key, ``<method>.<site path>.<name>``."""
    if attachment.modules is None:
        return {}
    return {
        f"{attachment.method}.{key.replace('/', '.')}.{name}": tensor
        for key, module in attachment.modules.items()
        for name, tensor in module.named_parameters()
    }
