"""A diffusers Wan transformer as ``methods.anyv2v.Network``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ...methods.anyv2v import FINER, Features, edit, injected_attention, injected_blocks
from .video import DiffusersVideoModel, forwards, velocity, with_loras

__all__ = ["FINER", "WanNetwork", "edited"]

if TYPE_CHECKING:
    from ..protocol import Progress
    from .video import DiffusersVideoBackend


class WanNetwork:
    """See ``methods.anyv2v.Network``. The transformer is changed only within a call.

    Args:
        model: with its LoRAs.
    """

    def __init__(self, model: DiffusersVideoModel):
        self.model = model
        self.branch, self.attentions = injected_blocks(len(model.transformer.blocks))

    def velocity(self, x: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        with with_loras(self.model, self.model.loras):
            return velocity(self.model, x, sigma, conditioning)

    def reading(self, x: Tensor, sigma: Tensor, conditioning: Any) -> Features:
        found = Features()

        def attended(block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            found.queries[block], found.keys[block] = q, k
            return injected_attention(q, k, v, q, k, 1, False, False)

        def branch(block: int, before: Callable, tokens: Tensor) -> Tensor:
            found.branches[block] = before(tokens)
            return found.branches[block]

        with self._opened(attended, branch):
            self.velocity(x, sigma, conditioning)
        return found

    def injected(self, x: Tensor, sigma: Tensor, conditioning: Any, source: Features, taken: dict[str, bool]) -> Tensor:
        frames = x.shape[2] // self.model.transformer.config.patch_size[0]

        def attended(block: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return injected_attention(q, k, v, source.queries[block], source.keys[block], frames, taken["spatial"],
                                      taken["temporal"])

        def branch(block: int, before: Callable, tokens: Tensor) -> Tensor:
            return source.branches[block]

        with self._opened(attended if taken["spatial"] or taken["temporal"] else None,
                          branch if taken["features"] else None):
            return self.velocity(x, sigma, conditioning)

    @contextmanager
    def _opened(self, attended: Callable | None, branch: Callable | None) -> Iterator[None]:
        """Self-attention and the feed-forward's branch of the blocks in question answered by others."""
        blocks = self.model.transformer.blocks
        changed: dict[nn.Module, Callable] = {}
        if attended is not None:
            changed |= {blocks[i].attn1: _self_attention(blocks[i].attn1, i, attended) for i in self.attentions}
        if branch is not None:
            feed_forward, before = blocks[self.branch].ffn, blocks[self.branch].ffn.forward
            changed[feed_forward] = lambda tokens: branch(self.branch, before, tokens)
        with ExitStack() as stack:
            stack.enter_context(forwards(changed))
            yield


def _self_attention(attention: Any, block: int, attended: Callable) -> Callable:
    """The forward of a Wan block's self-attention with its mixing given."""

    def forward(tokens: Tensor, context: None = None, mask: None = None, rotary: tuple[Tensor, Tensor] | None = None
                ) -> Tensor:  # fmt: skip
        q, k = attention.norm_q(attention.to_q(tokens)), attention.norm_k(attention.to_k(tokens))
        q, k, v = (x.unflatten(2, (attention.heads, -1)) for x in (q, k, attention.to_v(tokens)))
        if rotary is not None:
            q, k = turned(q, *rotary), turned(k, *rotary)
        return attention.to_out[0](attended(block, q, k, v).flatten(2))

    return forward


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding: pairs (a, b) -> (a cos - b sin, a sin + b cos), one angle for both of a pair.

    Args:
        x: [1, tokens, heads, head_dim].
        cos, sin: [1, tokens, 1, head_dim], each angle twice.
    """
    pairs = x.unflatten(-1, (-1, 2))
    crossed = pairs.flip(-1) * pairs.new_tensor([-1.0, 1.0])
    return (x * cos + crossed.flatten(-2) * sin).type_as(x)


def edited(backend: DiffusersVideoBackend, model: DiffusersVideoModel, samples: Tensor, sigmas: Tensor, *args: Any,
           progress: Progress, **kwargs: Any) -> Tensor:
    """``methods.anyv2v.edit`` on LATENT samples [1, 16, T', h, w]."""
    source = backend.to_model_space(model, samples).to(model.transformer.device)
    x = edit(WanNetwork(model), source, sigmas, *args, report=progress.update, **kwargs)
    return backend.from_model_space(model, x.cpu())
