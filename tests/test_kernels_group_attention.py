"""Attention to group frames, against sums written out in float64."""

from __future__ import annotations

import math

import pytest
import torch
from steadyedit.kernels import group_attention as kernels
from steadyedit.kernels.frame_attention import log_sum_exp as parts
from tolerances import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

# branches, frames, group, tokens, keys, heads, head_dim: ones, odd numbers, no powers of two,
# a group as long as the clip, more keys than tokens (text).
SIZES = [
    (1, 1, 1, 1, 1, 1, 1),
    (2, 5, 3, 7, 7, 3, 5),
    (1, 3, 3, 6, 77, 2, 8),
    (3, 7, 2, 9, 5, 1, 6),
    (2, 1, 4, 10, 10, 2, 3),
    (1, 9, 1, 3, 13, 1, 4),
]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def attend(q, k, v, heads):
    """softmax(QK^T / sqrt d) V for one frame: [queries, c] and [keys, c]."""
    outs = []
    for q_, k_, v_ in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        weights = (q_ @ k_.T / math.sqrt(q_.shape[-1])).exp()
        outs.append(weights / weights.sum(-1, keepdim=True) @ v_)
    return torch.cat(outs, -1)


def gather(q, k, v, heads, branches):
    """Equation 7, frame by frame."""
    group = len(q) // branches
    previous = [b * group + max(i - 1, 0) for b in range(branches) for i in range(group)]
    return torch.stack([attend(q[row], k[j], v[j], heads) for row, j in enumerate(previous)])


def swap(q, k, v, heads, branches):
    """Equations 8 and 9, frame by frame."""
    frames, group = len(q) // branches, len(k) // branches
    rows = []
    for row in range(len(q)):
        keys, values = [], []
        for j in range(group):
            keys.append(k[row // frames * group + j])
            values.append(v[row // frames * group + j])
        rows.append(attend(q[row], torch.cat(keys), torch.cat(values), heads))
    return torch.stack(rows)


def cross_frame(q, k_own, v_own, k, v, heads, branches):
    """Equation 4, frame by frame."""
    frames = len(q) // branches
    k_, v_ = (x.unflatten(0, (branches, -1)).flatten(1, 2) for x in (k, v))
    rows = []
    for row in range(len(q)):
        keys = torch.cat([k_own[row], k_[row // frames]])
        rows.append(attend(q[row], keys, torch.cat([v_own[row], v_[row // frames]]), heads))
    return torch.stack(rows)


def random_tensors(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def inputs(operation, size, seed=0):
    """Inputs of one operation, and the gradient that comes back into it."""
    branches, frames, group, tokens, keys, heads, head_dim = size
    channels = heads * head_dim
    q, own = (branches * frames, tokens, channels), (branches * frames, keys, channels)
    shared = (branches * group, keys, channels)
    shapes = {"gather": (q, own, own), "swap": (q, shared, shared), "cross_frame": (q, own, own, shared, shared)}
    return random_tensors(seed, *shapes[operation], q)


TRUTHS = {"gather": gather, "swap": swap, "cross_frame": cross_frame}
FORMS = [(operation, form) for operation in TRUTHS for form in ("", "_sdpa", "_reference")]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("operation", "form"), [*FORMS, ("cross_frame", "_portable")])
def test_outputs_and_gradients(poisoned, operation, form, dtype, size):
    *tensors, slope = inputs(operation, size)
    branches, heads = size[0], size[5]
    given = [t.to(dtype).requires_grad_() for t in tensors]
    wide = [t.detach().double().requires_grad_() for t in given]
    out = getattr(kernels, f"{operation}_attention{form}")(*given, heads, branches)
    expected = TRUTHS[operation](*wide, heads, branches)
    assert out.dtype == dtype and out.shape == given[0].shape
    assert_close(out, expected)
    out.backward(slope.to(dtype))
    expected.backward(slope.to(dtype).double())
    for i, (a, b) in enumerate(zip(given, wide, strict=True)):
        assert_close(a.grad, b.grad, name=f"gradient {i}")


@pytest.mark.parametrize("operation", TRUTHS)
def test_large_scores_do_not_overflow(operation):
    given = [30 * x for x in inputs(operation, SIZES[1])[:-1]]
    out = getattr(kernels, f"{operation}_attention")(*(t.float() for t in given), 3, 2)
    expected = getattr(kernels, f"{operation}_attention_reference")(*given, 3, 2)
    assert_close(out, expected, torch.float16)


@pytest.mark.parametrize("operation", TRUTHS)
def test_branches_in_one_call_or_two(operation):
    *tensors, _ = inputs(operation, SIZES[1])
    call = getattr(kernels, f"{operation}_attention")
    apart = torch.cat([call(*(t.chunk(2)[b] for t in tensors), 3, 1) for b in range(2)])
    assert_close(call(*tensors, 3, 2), apart)


@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("operation", ["swap", "cross_frame"])
def test_frames_in_chunks(operation, chunk):
    """A frame's row does not know which others came along."""
    *tensors, _ = inputs(operation, (1, 9, 3, 5, 5, 2, 4))
    call = getattr(kernels, f"{operation}_attention")
    own = 1 if operation == "swap" else 3
    parts_ = zip(*(t.split(chunk) for t in tensors[:own]), strict=True)
    assert_close(torch.cat([call(*rows, *tensors[own:], 2, 1) for rows in parts_]), call(*tensors, 2, 1))


def test_a_group_of_one_frame_swaps_itself_in():
    """One frame as its own group is plain self-attention, whether it gathers or swaps."""
    q, k, v = random_tensors(3, *[(1, 7, 6)] * 3)
    plain = attend(q[0], k[0], v[0], 2)[None]
    for call in (kernels.gather_attention, kernels.swap_attention):
        assert_close(call(q, k, v, 2, 1), plain)


def test_keys_of_equal_frames_are_as_good_as_one():
    """The same text for all frames: its swap is an exact no-op."""
    q, k, v = random_tensors(4, (5, 7, 6), (1, 77, 6), (1, 77, 6))
    own = kernels.swap_attention(q, k.expand(5, -1, -1), v.expand(5, -1, -1), 2, 5)
    assert_close(kernels.swap_attention(q, k.repeat(4, 1, 1), v.repeat(4, 1, 1), 2, 1), own)


@pytest.mark.parametrize("operation", TRUTHS)
def test_strides_do_not_matter(operation):
    """Inputs that are views of other layouts, and the gradient of a sum, which has no strides."""
    *tensors, _ = inputs(operation, SIZES[1])
    given = [t.transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for t in tensors]
    wide = [t.detach().clone().requires_grad_() for t in given]
    getattr(kernels, f"{operation}_attention")(*given, 3, 2).sum().backward()
    TRUTHS[operation](*wide, 3, 2).sum().backward()
    for a, b in zip(given, wide, strict=True):
        assert_close(a.grad, b.grad)


class Storages(TorchDispatchMode):
    """Bytes of every storage that an operation allocates."""

    def __init__(self):
        super().__init__()
        self.bytes = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.bytes[storage.data_ptr()] = storage.nbytes()
        return out


@pytest.mark.parametrize("operation", ["swap", "cross_frame"])
def test_no_key_is_repeated_per_frame(operation):
    """With 64 times more keys than queries, what is allocated has the size of the queries.

    One copy of the group's keys per frame would be 40 x the bytes of the keys.
    """
    frames, channels = 40, 8
    q, own, *_ = random_tensors(5, (frames, 4, channels), (frames, 4, channels))
    k, v = random_tensors(6, *[(4, 256, channels)] * 2)
    call, given = getattr(kernels, f"{operation}_attention"), [q] if operation == "swap" else [q, own, own]
    assert parts.available("cpu", torch.float64, 4)
    with Storages() as seen, torch.no_grad():
        call(*given, k, v, 2, 1)
    inputs_ = {x.untyped_storage().data_ptr() for x in (q, own, k, v)}
    made = [size for where, size in seen.bytes.items() if where not in inputs_]
    assert made and max(made) <= q.nbytes < k.nbytes


def test_gather_copies_no_key_at_all():
    q, k, v = random_tensors(7, (5, 2, 8), (5, 300, 8), (5, 300, 8))
    with Storages() as seen, torch.no_grad():
        kernels.gather_attention(q, k, v, 2, 1)
    inputs_ = {x.untyped_storage().data_ptr() for x in (q, k, v)}
    made = [size for where, size in seen.bytes.items() if where not in inputs_]
    assert made and max(made) <= q.nbytes < k[:1].nbytes


def test_inputs_stay_as_they_were():
    for operation in TRUTHS:
        *tensors, _ = inputs(operation, SIZES[1])
        before = [t.clone() for t in tensors]
        getattr(kernels, f"{operation}_attention")(*tensors, 3, 2)
        assert all(a.equal(b) for a, b in zip(tensors, before, strict=True))


@pytest.mark.parametrize(
    ("shapes", "heads", "branches", "message"),
    [
        ([(6, 5, 4), (4, 5, 6), (4, 5, 6)], 2, 2, "all of the same channels"),
        ([(6, 5, 4), (4, 5, 4), (4, 6, 4)], 2, 2, "keys and values alike"),
        ([(6, 5, 4), (4, 5, 4), (4, 5, 4)], 2, 4, "6 queries and 4 keys do not hold 4 branches"),
        ([(6, 5, 4), (4, 5, 4), (4, 5, 4)], 3, 2, "4 channels do not split into 3 heads"),
    ],
)
def test_misfits_are_named(shapes, heads, branches, message):
    with pytest.raises(ValueError, match=message):
        kernels.swap_attention(*random_tensors(8, *shapes), heads, branches)


def test_frames_without_keys_of_their_own_are_named():
    q, k = random_tensors(9, (6, 5, 4), (4, 5, 4))
    for call in (kernels.gather_attention, lambda *a: kernels.cross_frame_attention(*a[:3], k, k, *a[3:])):
        with pytest.raises(ValueError, match="6 frames need keys of their own, but there are 4"):
            call(q, k, k, 2, 2)
