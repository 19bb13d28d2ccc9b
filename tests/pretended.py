"""A device that only pretends: it computes on the CPU, but insists, as a GPU does, that operands lie on it.

``setup()`` registers PyTorch's PrivateUse1 as "pretend" with kernels in Python. What mixes it with CPU tensors of one
dimension or more raises, as on CUDA; so do a CPU generator, indices on the device into a CPU tensor, and ``.numpy()``.
Numbers are the CPU's, forward and backward. In this process for good, once registered; nothing else changes.

An exception in a hook that unpacks what autograd kept ends the whole process on such a device.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

#: Set where a process is for such a device: PyTorch's backward knows only devices from before its first run.
ALONE = "STEADYEDIT_PRETENDED_DEVICE"
NAME = "pretend"
DEVICE = f"{NAME}:0"
#: Operators that take tensors of two devices on CUDA, too.
_MIX = {"_copy_from", "copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_", "resize_"}
#: PyTorch would make them of ``as_strided``, which is a copy of what is not contiguous: writes into it would be lost.
_VIEWS = ("slice.Tensor", "select.int", "transpose.int", "permute.default", "expand.default", "unsqueeze.default",
          "squeeze.default", "squeeze.dim", "squeeze.dims")  # fmt: skip
_PUTS = {"index_put", "index_put_", "_index_put_impl_"}
#: By storage, which a Parameter shares with the tensor that it was made of: a weak reference and the CPU's tensor.
_values: dict[int, tuple[StorageWeakRef, Tensor]] = {}
_libraries: list[torch.library.Library] = []


def missing() -> str | None:
    """Why there is no such device in this process; None where there is."""
    from torch.utils import backend_registration

    if not os.environ.get(ALONE):
        return "in a process of its own: see test_pretended_processes.py"

    if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
        return f"PyTorch {torch.__version__} has no backends in Python"
    return None


class _Module:
    """``torch.pretend``."""

    @staticmethod
    def is_available() -> bool:
        return True

    @staticmethod
    def is_initialized() -> bool:
        return True

    @staticmethod
    def _is_in_bad_fork() -> bool:
        return False

    @staticmethod
    def device_count() -> int:
        return 1

    @staticmethod
    def current_device() -> int:
        return 0

    @staticmethod
    def manual_seed_all(seed: int) -> None:
        """Nothing is drawn on the device."""

    @staticmethod
    def synchronize(device: Any = None) -> None:
        """Nothing is queued."""

    @staticmethod
    def empty_cache() -> None:
        """Nothing is kept."""

    @staticmethod
    def get_amp_supported_dtype() -> list[torch.dtype]:
        # Blocks that are computed again ask for it; an exception there ends the process.
        return [torch.float16, torch.bfloat16, torch.float32]


@cache
def setup() -> torch.device:
    """Register the device."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module())
    everything, own = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _libraries.extend((everything, own))
    everything.fallback(_run, "PrivateUse1")
    for name in ("arange", "arange.start", "arange.start_step"):
        own.impl(name, _made(torch.arange), "PrivateUse1")
    own.impl("linspace", _made(torch.linspace), "PrivateUse1")
    for name in (*_VIEWS, "convolution_overrideable.default", "convolution_backward_overrideable.default"):
        packet, overload = name.split(".")
        op = getattr(getattr(torch.ops.aten, packet), overload)
        own.impl(name.removesuffix(".default"), lambda *args, _op=op, **kwargs: _run(_op, *args, **kwargs),
                 "PrivateUse1")  # fmt: skip
    return torch.device(DEVICE)


def _made(function: Any) -> Any:
    def kernel(*args: Any, device: Any = None, pin_memory: Any = None, layout: Any = None, **kwargs: Any) -> Tensor:
        return _wrapped(function(*args, **kwargs))

    return kernel


def _wrapped(raw: Tensor) -> Tensor:
    out = torch._C._acc.create_empty_tensor(raw.shape, raw.dtype)
    reference = StorageWeakRef(out.untyped_storage())
    _values[reference.cdata] = reference, raw
    if len(_values) % 4096 == 0:
        for key in [key for key, (reference, _) in _values.items() if reference.expired()]:
            del _values[key]
    return out


def _raw(tensor: Tensor) -> Tensor:
    raw = _values[tensor.untyped_storage()._cdata][1]
    if raw.shape == tensor.shape:
        return raw
    # Some of PyTorch's own functions make an alias of other sizes without asking the device.
    if raw.numel() == tensor.numel():
        return raw.reshape(tensor.shape)
    return raw.contiguous().as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _on_cpu(value: Any) -> Any:
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return _raw(value) if isinstance(value, Tensor) and value.device.type == NAME else value


def _check(name: str, tensors: list[Tensor], args: tuple, kwargs: dict) -> None:
    """What CUDA refuses."""
    # A number of the CPU goes with the device's tensors; one of the device goes with nothing of the CPU's.
    kinds = {t.device.type for t in tensors if t.ndim or t.device.type == NAME}
    if len(kinds) > 1 and name not in _MIX:
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} found {sorted(kinds)}")
    if name in _PUTS and args[2].ndim and args[2].device != args[0].device:
        raise RuntimeError(f"{name}: values on {args[2].device}, self on {args[0].device}")
    if name in ("index", *_PUTS) and args[0].device.type == "cpu":
        raise RuntimeError(f"{name}: indices should be on the cpu, as the indexed tensor is")
    if (generator := kwargs.get("generator")) is not None:
        raise RuntimeError(f"{name}: expected a generator of the device, got one of {generator.device}")


def _mapped(function: Any, value: Any) -> Any:
    """Lists, tuples and dicts are all that operators take and give; a third of the time of torch's own trees."""
    if isinstance(value, (list, tuple)):
        return type(value)([_mapped(function, item) for item in value])
    if isinstance(value, dict):
        return {key: _mapped(function, item) for key, item in value.items()}
    return function(value)


@cache
def _about(op: Any) -> tuple[str, bool]:
    """An operator's name, and whether it writes into an argument."""
    return op._schema.name.split("::")[1], op._schema.is_mutable


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    name, is_mutable = _about(op)
    if name == "_copy_from":
        _on_cpu(args[1]).copy_(_on_cpu(args[0]))
        return args[1]
    tensors: list[Tensor] = []
    raws: list[Tensor] = []

    def taken(value: Any) -> Any:
        raw = _on_cpu(value)
        if isinstance(raw, Tensor):
            tensors.append(value)
            raws.append(raw)
        return raw

    a, k = _mapped(taken, args), _mapped(taken, kwargs)
    _check(name, tensors, args, kwargs)
    # An operator in place, or with a place for its result, gives its own argument back.
    known = {id(raw): t for raw, t in zip(raws, tensors, strict=True)} if is_mutable else {}
    if name == "_local_scalar_dense":
        return a[0].item()

    def given(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        own = known.get(id(x))
        if own is None:
            return _wrapped(x)
        if own.shape != x.shape:  # a place for the result that had to grow
            own.data = _wrapped(x)
        return own

    return _mapped(given, _computed(op, name, a, k))


def _computed(op: Any, name: str, a: tuple, k: dict) -> Any:
    """The CPU's result."""
    if name in ("view", "_unsafe_view", "_reshape_alias"):
        return a[0].reshape(a[1])
    if name == "as_strided":  # sizes and strides are those of a contiguous tensor, as all pretended ones say they are
        base = a[0].contiguous()
        offset = a[3] if len(a) > 3 and a[3] is not None else k.get("storage_offset") or 0
        return base.as_strided(a[1], a[2], offset + base.storage_offset())
    if name == "convolution_overrideable":
        return torch.ops.aten.convolution(*a, **k)
    if name == "convolution_backward_overrideable":
        gradient, x, weight, stride, padding, dilation, transposed, output_padding, groups, mask = a
        sizes = [weight.shape[1] * groups if transposed else weight.shape[0]]
        return torch.ops.aten.convolution_backward(
            gradient, x, weight, sizes, stride, padding, dilation, transposed, output_padding, groups, mask
        )
    return op(*a, **k)
