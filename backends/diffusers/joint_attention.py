"""diffusers' FLUX with LoRAs beside its layers, and with other attention in the place of its joint one."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from ...methods.lora import factors
from ...toyworld.models import flow_editor
from .video import forwards

if TYPE_CHECKING:
    from torch import Tensor

    from ...methods.sampling_plan import Replacement
    from ...methods.via.joint_attention import TokenLayout

#: Attention's own layers by FLUX's names; those of single blocks have the feed-forward's in them.
ATTENTION = ("_attn.qkv", "_attn.proj", "linear1", "linear2")


def layers_of(network: nn.Module) -> dict[str, tuple[nn.Linear, ...]]:
    """Linear layers of the attentions by FLUX's names, each as the layers that diffusers cuts it into."""
    found = {name: tuple(network.get_submodule(part) for part in parts)
             for name, parts in flow_editor.names(network.state_dict()) if name.endswith(ATTENTION)}
    return {name: parts for name, parts in found.items() if all(isinstance(part, nn.Linear) for part in parts)}


@contextmanager
def with_loras(network: nn.Module, loras: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """The network with LoRAs beside its layers, W x + B A x each, inside the ``with``."""
    layers = layers_of(network)
    beside: dict[nn.Linear, list[tuple[Tensor, Tensor, int]]] = {}
    for lora in loras:
        for name, (down, up) in factors(lora).items():
            first = 0
            for part in layers[name]:
                beside.setdefault(part, []).append((down, up, first))
                first += part.out_features

    def forward_of(layer: nn.Linear, held: list[tuple[Tensor, Tensor, int]]) -> Callable[[Tensor], Tensor]:
        before, outputs = layer.forward, layer.out_features

        def forward(x: Tensor) -> Tensor:
            # Cut here: a view from before would be in the way of a training that changes the whole.
            return before(x) + sum(F.linear(F.linear(x, down.to(x)), up[first : first + outputs].to(x))
                                   for down, up, first in held)  # fmt: skip

        return forward

    with forwards({layer: forward_of(layer, held) for layer, held in beside.items()}):
        yield


class JointProcessor:
    """diffusers' attention of FLUX with a replacement in its place.

    Args:
        path: of the block.
        replaced: of the call.
        tokens, branches: what its tokens are, and the conditions in the batch.
    """

    def __init__(self, path: str, replaced: Any, tokens: TokenLayout, branches: tuple[Hashable, ...]) -> None:
        self.path, self.replaced, self.tokens, self.branches = path, replaced, tokens, branches

    def __call__(self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
                 attention_mask: Tensor | None = None, image_rotary_emb: Any = None) -> Any:
        from diffusers.models.embeddings import apply_rotary_emb

        def heads(x: Tensor) -> Tensor:
            return x.unflatten(-1, (attn.heads, -1))

        q, k, v = (heads(layer(hidden_states)) for layer in (attn.to_q, attn.to_k, attn.to_v))
        q, k = attn.norm_q(q), attn.norm_k(k)
        text = 0 if encoder_hidden_states is None else encoder_hidden_states.shape[1]
        if text:
            own = [heads(layer(encoder_hidden_states))
                   for layer in (attn.add_q_proj, attn.add_k_proj, attn.add_v_proj)]
            own[0], own[1] = attn.norm_added_q(own[0]), attn.norm_added_k(own[1])
            q, k, v = (torch.cat(pair, 1) for pair in zip(own, (q, k, v), strict=True))
        q, k = (apply_rotary_emb(x, image_rotary_emb, sequence_dim=1) for x in (q, k))
        out = self.replaced.joint(self.path, *(x.transpose(1, 2) for x in (q, k, v)), self.tokens, self.branches,
                                  attend, attention_mask)
        if not text:
            return out
        return attn.to_out[1](attn.to_out[0](out[:, text:])), attn.to_add_out(out[:, :text])


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(QK^T / sqrt d + mask) V, heads side by side; see ``joint_attention.Attend``."""
    return F.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2)


@contextmanager
def replaced_attention(network: Any, replaced: Replacement | None, tokens: TokenLayout,
                       branches: tuple[Hashable, ...]) -> Iterator[None]:
    """The network with the joint attentions of a call replaced, inside the ``with``."""
    blocks = {f"{kind}_blocks.{i}": block.attn for kind, there in (("double", network.transformer_blocks),
                                                                   ("single", network.single_transformer_blocks))
              for i, block in enumerate(there)}
    touched = {path: attention for path, attention in blocks.items()
               if replaced is not None and path in replaced.sites}
    before = {path: attention.processor for path, attention in touched.items()}
    try:
        for path, attention in touched.items():
            attention.processor = JointProcessor(path, replaced, tokens, branches)
        yield
    finally:
        for path, attention in touched.items():
            attention.processor = before[path]
