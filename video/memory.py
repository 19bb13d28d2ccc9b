"""Whether frames fit into memory, told before they are read."""

from __future__ import annotations


def check_memory(name: str, values: int, advice: str = "set a smaller count or size, or a larger stride") -> None:
    """Raise MemoryError where so many float32 values are more than is free."""
    import psutil

    needed, free = 4 * values, psutil.virtual_memory().available
    if needed > free:
        raise MemoryError(
            f"{name}: the frames asked for need {needed / 2**30:.1f} GiB of memory and {free / 2**30:.1f} GiB are"
            f" free; {advice}."
        )
