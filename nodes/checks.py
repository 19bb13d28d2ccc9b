"""Bad input, told before long work begins: one sentence that names the input, what it is, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends.protocol import Attaching, Host
    from ..methods.tuned_weights import TunedWeights


def clip_latent(latent: dict[str, Any]) -> Tensor:
    """The samples [frames, channels, height, width] of a LATENT that is a clip.

    Raises:
        ValueError: another shape, no frames, or values that are not finite.
    """
    from ..methods.tuning import check_samples

    samples = latent["samples"]
    check_samples(samples)
    return samples


def no_noise_mask(latent: dict[str, Any]) -> None:
    """Raise ValueError where a clip that is to be inverted carries a noise mask."""
    if "noise_mask" in latent:
        raise ValueError("latent: carries a noise mask, which a sampler would apply to the inverted noise instead "
                         "of the clip; remove Set Latent Noise Mask, and keep a region with Boundary Blend.")


def conditions_fit(name: str, conditioning: list, frames: int) -> None:
    """Raise ValueError unless every entry holds one prompt, or one a frame."""
    if not conditioning:
        raise ValueError(f"{name}: is empty; connect a CLIPTextEncode.")
    for embedding, _ in conditioning:
        if embedding is not None and embedding.shape[0] not in (1, frames):
            raise ValueError(f"{name}: holds {embedding.shape[0]} prompts, but the latent has {frames} frames; "
                             f"give one prompt for all of them or {frames}.")


def size_fits(backend: Attaching, model: Any, samples: Tensor) -> None:
    """Raise ValueError where what is attached does not fit the clip's size."""
    from ..methods.registry import check_size

    check_size(backend.attachments(model), *samples.shape[-2:])


def multiple_of_8(name: str, size: int) -> None:
    """Raise ValueError unless a side in pixels divides by 8, as the VAE needs."""
    if size % 8:
        raise ValueError(f"{name}: {size} pixels do not divide by 8; use {size // 8 * 8 or 8} or {size // 8 * 8 + 8}.")


def wanted(given: dict[str, Any], *lazy: str) -> list[str]:
    """For ``check_lazy_status``: the lazy inputs that are connected, and not computed yet.

    A node asks for its models once it has seen that its clip and mask are right, so that the sentence about those
    comes before any model is loaded.
    """
    return [name for name in lazy if name in given and given[name] is None]


@contextmanager
def explain_out_of_memory(backend: Host, work: str, samples: Tensor) -> Iterator[None]:
    """Turn out-of-memory errors into one sentence.

    Raises:
        MemoryError: memory ran out inside the ``with``.
    """
    # Frames of a video's latent lie behind its channels.
    frames, (height, width) = samples.shape[2 if samples.ndim == 5 else 0], samples.shape[-2:]
    with explain_no_memory(backend, "latent", f"{work} {frames} frames of {width * 8}x{height * 8}",
                           "fewer frames or a smaller size"):  # fmt: skip
        yield


@contextmanager
def explain_no_memory(backend: Host, name: str, work: str, instead: str) -> Iterator[None]:
    """Turn out-of-memory errors into one sentence.

    Args:
        name: input that decides how much is needed.
        work: what was being done; instead: what to use.

    Raises:
        MemoryError: memory ran out inside the ``with``.
    """
    from ..methods.out_of_memory import ran_out

    try:
        yield
    except Exception as error:
        if not ran_out(error, backend.out_of_memory()):
            raise
        raise MemoryError(f"{name}: memory ran out while {work}; use {instead}.") from error


def whole_numbers(name: str, text: str) -> tuple[int, ...]:
    """Numbers of frames from a text such as "0, 12 40".

    Raises:
        ValueError: there is something else in it.
    """
    words = text.replace(",", " ").split()
    if not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError(f"{name}: expected whole numbers such as 0, 12, 40, but got {text!r}.")
    return tuple(map(int, words))


def ranges(name: str, text: str) -> tuple[int, ...]:
    """Numbers from a text such as "5", "1-7" or "1,2,6,7", sorted.

    Raises:
        ValueError: nothing, or something else, is in it.
    """
    found: set[int] = set()
    for word in text.replace(",", " ").split() or [""]:
        ends = word.split("-")
        first, last = ends[0], ends[-1]
        plain = len(ends) <= 2 and all(end.isascii() and end.isdigit() and len(end) <= 3 for end in ends)
        if not plain or int(first) > int(last):
            raise ValueError(f"{name}: expected numbers such as 5, 1-7 or 1,2,6,7, but got {text!r}.")
        found.update(range(int(first), int(last) + 1))
    return tuple(sorted(found))


def tuned_weights(weights: Any) -> TunedWeights:
    """The value, where it is one of tuned weights.

    Raises:
        TypeError: it is something else.
    """
    from ..methods.tuned_weights import TunedWeights

    if not isinstance(weights, TunedWeights):
        raise TypeError(f"weights: expected those of a tuning node or of Load Tuned Weights, but got a "
                        f"{type(weights).__name__}.")  # fmt: skip
    return weights
