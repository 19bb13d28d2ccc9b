"""Attention across frames, against sums written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.utils.checkpoint
from steadyedit.kernels import frame_attention as kernels
from steadyedit.kernels.frame_attention import log_sum_exp as parts
from tolerances import assert_close

# branches, frames, height, width, heads, head_dim, ratio: ones, odd numbers, no powers of two,
# maps that the ratio does not divide, a window over the whole map.
SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 3, 5, 7, 3, 5, 2),
    (1, 4, 6, 6, 2, 8, 4),
    (3, 2, 1, 9, 1, 6, 3),
    (1, 9, 4, 4, 2, 3, 2),
    (2, 5, 3, 3, 1, 4, 3),
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
FORMS = ["", "_sdpa", "_portable", "_reference"]
#: Latent-shift attention's own frames, by its place in windows of 4 x 4; written out, as the authors' code does.
LATE = {(0, 0): 4, (0, 1): 3, (0, 2): 2, (0, 3): 1, (1, 0): 3, (1, 1): 2, (1, 2): 1, (1, 3): 0,
        (2, 0): 2, (2, 1): 1, (2, 2): 0, (2, 3): 0, (3, 0): 1, (3, 1): 2, (3, 2): 3, (3, 3): 4}  # fmt: skip
FORMS_WITHOUT_RATIO = [("sparse_causal_attention", form) for form in FORMS] + [
    ("full_attention", form) for form in FORMS if form != "_portable"
]


def windows(x, height, width, ratio):
    """Means of ratio x ratio windows, window by window; [tokens, channels] -> [windows, channels]."""
    grid = x.reshape(height, width, -1)
    rows = range(0, height, ratio)
    columns = range(0, width, ratio)
    return torch.stack([grid[y : y + ratio, x : x + ratio].mean((0, 1)) for y in rows for x in columns])


def attend(q, k, v, heads):
    """softmax(QK^T / sqrt d) V for one frame: [queries, c] and [keys, c]."""
    outs = []
    for q_, k_, v_ in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weights = (q_ @ k_.T / math.sqrt(q_.shape[-1])).exp()
        outs.append(weights / weights.sum(-1, keepdim=True) @ v_)
    return torch.cat(outs, -1)


def per_frame(q, k, v, heads, frames, keys_of):
    rows = []
    for index in range(q.shape[0]):
        branch, i = divmod(index, frames)
        clip = slice(branch * frames, (branch + 1) * frames)
        rows.append(attend(q[index], keys_of(k[clip], i), keys_of(v[clip], i), heads))
    return torch.stack(rows)


def fine_coarse(q, k, v, heads, frames, height, width, ratio):
    def keys_of(x, i):
        return torch.cat([x[i], *(windows(x[j], height, width, ratio) for j in range(frames) if j != i)])

    return per_frame(q, k, v, heads, frames, keys_of)


def sparse_causal(q, k, v, heads, frames):
    return per_frame(q, k, v, heads, frames, lambda x, i: torch.cat([x[0], x[max(i - 1, 0)]]))


def full(q, k, v, heads, frames):
    return per_frame(q, k, v, heads, frames, lambda x, i: x.flatten(0, 1))


def latent_shift(q, k, v, heads, frames, height, width, own):
    def shifted(x, i):
        clips = x.unflatten(1, (height, width))
        out = clips[i].clone()
        for (y, x_), late in LATE.items():
            if i >= late:
                out[y::4, x_::4] = clips[i - late, y::4, x_::4]
        return out.flatten(0, 1)

    def keys_of(x, i):
        return torch.cat([x[i] if own else shifted(x, max(i - 1, 0)), shifted(x, i)])

    return per_frame(q, k, v, heads, frames, keys_of)


TRUTHS = {"frame_attention": fine_coarse, "sparse_causal_attention": sparse_causal, "full_attention": full}


def compare(form, truth, arguments, tensors, slope, dtype):
    """Outputs and all gradients of ``form`` in ``dtype`` against ``truth`` in float64."""
    given = [t.to(dtype).requires_grad_() for t in tensors]
    wide = [t.detach().double().requires_grad_() for t in given]
    out, expected = form(*given, *arguments), truth(*wide, *arguments)
    assert out.dtype == dtype
    out.backward(slope.to(dtype))
    expected.backward(slope.to(dtype).double())
    assert_close(out, expected)
    for name, a, b in zip("qkv", given, wide, strict=True):
        assert_close(a.grad, b.grad, name=f"gradient of {name}")


def random_tensors(seed, *shape, count=4):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_fine_coarse(poisoned, form, dtype, size):
    branches, frames, height, width, heads, head_dim, ratio = size
    *tensors, slope = random_tensors(0, branches * frames, height * width, heads * head_dim)
    call = getattr(kernels, f"frame_attention{form}")
    compare(call, fine_coarse, (heads, frames, height, width, ratio), tensors, slope, dtype)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("operation", "form"), FORMS_WITHOUT_RATIO)
def test_sparse_causal_and_full(poisoned, operation, form, dtype, size):
    branches, frames, height, width, heads, head_dim, _ = size
    *tensors, slope = random_tensors(1, branches * frames, height * width, heads * head_dim)
    compare(getattr(kernels, f"{operation}{form}"), TRUTHS[operation], (heads, frames), tensors, slope, dtype)


@pytest.mark.parametrize("size", [*SIZES, (2, 6, 5, 6, 2, 3, 1), (1, 7, 8, 4, 1, 2, 1)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("form", ["", "_sdpa", "_reference"])
def test_latent_shift(poisoned, form, own, dtype, size):
    branches, frames, height, width, heads, head_dim, _ = size
    *tensors, slope = random_tensors(1, branches * frames, height * width, heads * head_dim)
    call = getattr(kernels, f"latent_shift_attention{form}")
    compare(call, latent_shift, (heads, frames, height, width, own), tensors, slope, dtype)


def test_large_scores_do_not_overflow():
    q, k, v, _ = random_tensors(2, 6, 12, 4)
    arguments = (2, 3, 3, 4, 2)
    out = kernels.frame_attention(*(t.float() for t in (30 * q, 30 * k, v)), *arguments)
    assert_close(out, kernels.frame_attention_reference(30 * q, 30 * k, v, *arguments), torch.float16)


def test_ratio_one_is_full_attention():
    q, k, v, _ = random_tensors(3, 8, 15, 6)
    for form in FORMS:
        out = getattr(kernels, f"frame_attention{form}")(q, k, v, 2, 4, 3, 5, 1)
        assert_close(out, full(q, k, v, 2, 4))


def test_one_frame_is_self_attention():
    q, k, v, _ = random_tensors(4, 3, 15, 6)
    expected = per_frame(q, k, v, 2, 1, lambda x, i: x[i])
    for form in FORMS:
        assert_close(getattr(kernels, f"frame_attention{form}")(q, k, v, 2, 1, 3, 5, 2), expected)
    for own in (False, True):
        assert_close(kernels.latent_shift_attention(q, k, v, 2, 1, 3, 5, own), expected)


@pytest.mark.parametrize("operation", TRUTHS)
def test_branches_in_one_call_or_two(operation):
    q, k, v, _ = random_tensors(5, 6, 12, 4)
    arguments = (2, 3, 3, 4, 2) if operation == "frame_attention" else (2, 3)
    call = getattr(kernels, operation)
    apart = torch.cat([call(*(t[rows] for t in (q, k, v)), *arguments) for rows in (slice(0, 3), slice(3, 6))])
    assert_close(call(q, k, v, *arguments), apart)


def test_long_clips_pass_backward_in_rounds():
    """More frames than one round of the backward pass holds."""
    from steadyedit.kernels.frame_attention.sdpa import FRAMES_AT_ONCE

    frames = 2 * FRAMES_AT_ONCE + 1
    *tensors, slope = random_tensors(6, frames, 4, 2)
    compare(kernels.frame_attention_sdpa, fine_coarse, (1, frames, 2, 2, 2), tensors, slope, torch.float64)


@pytest.mark.parametrize("operation", TRUTHS)
def test_strides_do_not_matter(operation):
    """Inputs that are views of other layouts, and the gradient of a sum, which has no strides."""
    arguments = (2, 3, 3, 4, 2) if operation == "frame_attention" else (2, 3)
    given = [t.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in random_tensors(9, 6, 12, 4)[:3]]
    wide = [t.detach().clone().requires_grad_() for t in given]
    getattr(kernels, operation)(*given, *arguments).sum().backward()
    TRUTHS[operation](*wide, *arguments).sum().backward()
    for a, b in zip(given, wide, strict=True):
        assert_close(a.grad, b.grad)


def test_inputs_stay_as_they_were():
    tensors = random_tensors(7, 6, 12, 4)[:3]
    before = [t.clone() for t in tensors]
    kernels.frame_attention(*tensors, 2, 3, 3, 4, 2)
    kernels.sparse_causal_attention(*tensors, 2, 3)
    assert all(a.equal(b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((2, 3, 3, 4, 5), r"ratio: 5 is larger than the feature map \(3 x 4\); the largest allowed there is 4"),
        ((2, 3, 3, 5, 2), "12 tokens are not a map of 3 x 5"),
        ((2, 4, 3, 4, 2), "whole clips of 4 frames"),
        ((3, 3, 3, 4, 2), "4 channels do not split into 3 heads"),
    ],
)
def test_misfits_are_named(arguments, message):
    q, k, v, _ = random_tensors(8, 6, 12, 4)
    with pytest.raises(ValueError, match=message):
        kernels.frame_attention(q, k, v, *arguments)


def test_queries_keys_and_values_of_different_shapes_are_named():
    q, k, v, _ = random_tensors(8, 6, 12, 4)
    for tensors in ((q, k[:3], v), (q, k, v[:, :4]), (q[0], k[0], v[0])):
        with pytest.raises(ValueError, match="must share one shape"):
            kernels.frame_attention(*tensors, 2, 3, 3, 4, 2)


def test_the_first_call_of_a_program_may_be_inside_a_checkpoint():
    """The operators are tried out once; backward, which computes the block again, must not miss that trial."""
    from steadyedit.kernels.frame_attention.log_sum_exp import available

    q, k, v = (torch.randn(3, 4, 8, requires_grad=True) for _ in range(3))
    available.cache_clear()
    checkpointed = torch.utils.checkpoint.checkpoint(
        kernels.sparse_causal_attention, q, k, v, 2, 3, use_reentrant=False)  # fmt: skip
    found = torch.autograd.grad(checkpointed.sum(), q)[0]
    assert_close(found, torch.autograd.grad(kernels.sparse_causal_attention(q, k, v, 2, 3).sum(), q)[0].double())


@pytest.mark.parametrize(("raised", "answer"), [
    (AttributeError("no such operator"), False), (NotImplementedError("no kernel for this device"), False),
    (RuntimeError("not implemented for 'Int'"), False), (torch.OutOfMemoryError("memory"), None),
    (TypeError("a mistake of ours"), None)])  # fmt: skip
def test_only_missing_operators_are_done_without(raised, answer, monkeypatch):
    def attend(*_):
        raise raised

    monkeypatch.setattr(parts, "attend", attend)
    if answer is None:
        with pytest.raises(type(raised)):
            parts.available.__wrapped__("cpu", torch.float32, 4)
    else:
        assert parts.available.__wrapped__("cpu", torch.float32, 4) is answer
