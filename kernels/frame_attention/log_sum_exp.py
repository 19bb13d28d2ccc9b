"""Flash attention over one set of keys with its log-sum-exp, and the joining of several sets.

A softmax over a union of key sets is computed set by set. With out_s and lse_s, the result
and the log of the softmax's denominator over set s alone,

    lse = log sum_s exp(lse_s),    out = sum_s exp(lse_s - lse) out_s.

The backward pass of flash attention recomputes exp(QK^T - lse) and needs only ``out`` and
``lse``: given the joined ones, it yields the exact gradient of each set apart (the same
trick as in ring attention).

PyTorch's public attention returns no log-sum-exp. The operators below it do; they are the
same that the public function calls, but not part of the stable API. ``available`` therefore
tries them once per kind of device and type against plain attention.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from einops import rearrange
from torch import Tensor

from .reference import attention

OPS = torch.ops.aten


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(Q K^T / sqrt d) V and log sum exp(Q K^T / sqrt d).

    Args:
        q: [batch, heads, queries, d]; k, v: [batch, heads, keys, d]; any strides with the
            last one 1.

    Returns:
        [batch, heads, queries, d] and [batch, heads, queries] (float32 or wider).
    """
    if q.device.type == "cpu":
        return OPS._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    out, lse, *_ = OPS._scaled_dot_product_efficient_attention(q, k, v, None, True)
    # Rows of the log-sum-exp are padded to what the backward kernel wants.
    return out, lse[..., : q.shape[2]]


def attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v for this set of keys, given the joined ``out`` and ``lse``.

    Args:
        grad, q, out: [batch, heads, tokens, d]. k, v: [batch, heads, keys, d]. lse: [batch, heads, tokens].
    """
    if q.device.type == "cpu":
        return OPS._scaled_dot_product_flash_attention_for_cpu_backward(grad, q, k, v, out, lse, 0.0, False)
    rows = -(-q.shape[2] // 32) * 32
    padded = torch.nn.functional.pad(lse, (0, rows - q.shape[2]), value=float("inf"))
    seed = torch.zeros((), dtype=torch.int64, device=q.device)
    grads = OPS._scaled_dot_product_efficient_attention_backward(
        grad.to(q.dtype), q, k, v, None, out, padded, seed, seed, 0.0, [True, True, True, False]
    )
    return grads[:3]


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, tokens, heads * d] -> [batch, heads, tokens, d], a view."""
    return rearrange(x, "batch tokens (heads d) -> batch heads tokens d", heads=heads)


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, tokens, d] -> [batch, tokens, heads * d]."""
    return rearrange(x, "batch heads tokens d -> batch tokens (heads d)")


def folded(x: Tensor, heads: int) -> Tensor:
    """[frames, tokens, heads * d] -> [1, heads, frames * tokens, d], a view."""
    return rearrange(x, "frames tokens (heads d) -> 1 heads (frames tokens) d", heads=heads)


def unfolded(x: Tensor, frames: int) -> Tensor:
    """[1, heads, frames * tokens, d] -> [frames, tokens, heads * d]."""
    return rearrange(x, "1 heads (frames tokens) d -> frames tokens (heads d)", frames=frames)


def join(out: Tensor, lse: Tensor, more: Tensor, lse_more: Tensor) -> None:
    """Fold another key set's result into ``out`` (float32) and ``lse``, in place.

        lse' = log(e^lse + e^lse_more),   out' = e^(lse - lse') out + e^(lse_more - lse') more

    Args:
        out, more: [batch, heads, tokens, d]. lse, lse_more: [batch, heads, tokens], log of the sum of exp of logits.
    """
    joined = torch.logaddexp(lse, lse_more)
    out.mul_((lse - joined).exp_().unsqueeze(-1))
    out.add_(more * (lse_more - joined).exp_().unsqueeze(-1))
    lse.copy_(joined)


def wide_copy(out: Tensor) -> Tensor:
    """A copy in which the sets are joined: at least float32."""
    return out.to(torch.promote_types(out.dtype, torch.float32), copy=True)


@lru_cache
def available(device: str, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether the operators exist here and agree with plain attention, tried on a small input."""
    if device not in ("cpu", "cuda"):
        return False
    generator = torch.Generator().manual_seed(0)
    # Asked for the first time inside a checkpointed block, whose hooks count what is saved, the trial must not show.
    own_hooks = torch.autograd.graph.saved_tensors_hooks(lambda tensor: tensor, lambda tensor: tensor)
    with torch.inference_mode(False), torch.enable_grad(), own_hooks:
        # Strided like the real call: heads inside the last dimension of [batch, tokens, channels].
        q, k, v, slope = (
            torch.randn(2, n, 2 * head_dim, generator=generator).to(device, dtype) for n in (37, 19, 19, 37)
        )
        split = [split_heads(x, 2) for x in (q, k, v, slope)]
        wide = [x.detach().to("cpu", torch.float64).requires_grad_() for x in (q, k, v)]
        expected = attention(wide[0], wide[1], wide[2], 2)
        expected.backward(slope.to("cpu", torch.float64))
        try:
            out, lse = attend(*split[:3])
            grads = attend_backward(split[3], split[0], split[1], split[2], out, lse.clone())
        except torch.OutOfMemoryError:
            raise  # says nothing about the operators, and the answer is kept
        # No such name; no kernel for the device, type or card, which RuntimeError (NotImplementedError is one) tells.
        except (AttributeError, RuntimeError):
            return False
    joined = [join_heads(x).to("cpu", torch.float64) for x in (out, *grads)]
    truth = [expected.detach(), *(x.grad for x in wide)]
    close = {torch.float16: 1e-2, torch.bfloat16: 5e-2}.get(dtype, 1e-3)
    return all(((a - b).abs().max() <= close * (1 + b.abs().max())).item() for a, b in zip(joined, truth, strict=True))
