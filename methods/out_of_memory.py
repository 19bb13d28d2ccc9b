"""Which errors say that memory ran out: a host's own kinds, and those that come as plain RuntimeErrors."""

from __future__ import annotations

#: Words of such messages: CUDA's and Apple's, cuBLAS's, and PyTorch's own allocator on the CPU.
WORDS = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "can't allocate memory",
         "not enough memory")  # fmt: skip


def ran_out(error: BaseException, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an error says that memory ran out.

    Args:
        kinds: the host's, see ``Host.out_of_memory``.
    """
    plain = isinstance(error, RuntimeError) and any(words.lower() in str(error).lower() for words in WORDS)
    return plain or isinstance(error, kinds)
