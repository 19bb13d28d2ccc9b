"""What the nodes that look at pictures share: their sockets, loaded networks, and checks of frames."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .checks import explain_no_memory, whole_numbers

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends.model_manager import ManagedModel

CATEGORY = "SteadyEdit/masks"
Grounding = io.Custom("STEADYEDIT_GROUNDING")
Sam = io.Custom("STEADYEDIT_SAM")
#: The host's own type, by name: hosts before it had one do not know the class.
Boxes = io.Custom("BOUNDING_BOX")
NOTHING = ["empty mask", "error"]


@dataclass(frozen=True)
class Loaded:
    """A network for pictures in the host's care. ``model`` is a ``Segmenter`` or a ``Detector``."""

    model: Any
    network: ManagedModel
    name: str

    def ready(self, frames: int) -> Any:
        """The network on its device, with room for so many frames at once."""
        self.network.load(self.model.frame_bytes * frames)
        return self.model


def clip_of(images: Any, label: str = "images") -> Tensor:
    """An IMAGE batch [frames, height, width, 3].

    Raises:
        ValueError: frames of different sizes, no frames, or values that are not finite.
    """
    import torch

    from ..methods.finite import check_finite

    if isinstance(images, (list, tuple)):
        sizes = sorted({tuple(image.shape[-3:-1]) for image in images})
        if len(sizes) > 1:
            listed = " and ".join(f"{width}x{height}" for height, width in sizes[:2])
            raise ValueError(f"{label}: frames of mixed sizes, {listed}; bring them to one size, by ImageScale.")
        images = torch.cat([image.reshape(-1, *image.shape[-3:]) for image in images])
    if images.ndim != 4 or not len(images) or images.shape[-1] < 3:
        raise ValueError(f"{label}: expected an IMAGE batch, but got the shape {tuple(images.shape)}.")
    check_finite(label, images)
    return images[..., :3]


def frame_numbers(label: str, text: str, frames: int) -> list[int]:
    """Numbers of frames from a text, each inside of the clip and once.

    Raises:
        ValueError: they are not.
    """
    numbers = whole_numbers(label, text)
    for number in numbers:
        if number >= frames:
            raise ValueError(f"{label}: there is no frame {number} in a clip of {frames}; use 0 to {frames - 1}.")
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"{label}: names frame {max(numbers, key=numbers.count)} twice; name each once.")
    return list(numbers)


def explain_out_of_memory(work: str, frames: int, images: Tensor) -> AbstractContextManager[None]:
    """Turn out-of-memory errors into one sentence.

    Args:
        frames: how many are in one call. Only a node that has a ``chunk`` takes more than one.

    Raises:
        MemoryError: memory ran out inside the ``with``.
    """
    from .. import backends

    size = f"{images.shape[2]}x{images.shape[1]}"
    if frames > 1:
        return explain_no_memory(backends.current(), "chunk", f"{work} {frames} frames of {size} at once",
                                 "a smaller chunk")  # fmt: skip
    return explain_no_memory(backends.current(), "images", f"{work} frames of {size} one by one",
                             "smaller frames or a smaller network")


def progress(total: int, label: str) -> Callable[[int], None]:
    """The host's progress bar, as a function of what is done."""
    from .. import backends

    bar = backends.current().progress(max(total, 1), label)
    return lambda done: bar.update(done)


def progress_of_unknown_length(label: str) -> Callable[[int, int], None]:
    """The same for work whose total is known once it has begun: a function of what is done, and of the total."""
    advance: Callable[[int], None] | None = None

    def report(done: int, total: int) -> None:
        nonlocal advance
        advance = advance or progress(total, label)
        advance(done)

    return report
