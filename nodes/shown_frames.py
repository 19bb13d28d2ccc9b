"""A clip's frames and masks as small files that a widget of this pack asks the host for."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .pictures import progress

if TYPE_CHECKING:
    from torch import Tensor

#: Pixels of the longer side: enough to click on, quick to load.
SIDE = 1280
FOLDER = "steadyedit_points"


def temp_folder() -> Path | None:
    """Where the host keeps what it shows; None without a host, which then shows nothing."""
    try:
        import folder_paths
    except ImportError:
        return None
    return Path(folder_paths.get_temp_directory())


def shown_frames(clip: Tensor) -> dict[str, Any]:
    """Write frames as JPEG, once for each clip: {"subfolder", "type", "count", "width", "height"}.

    Args:
        clip: IMAGE [frames, height, width, 3]. Frame n is the file ``0000n.jpg``, of at most SIDE pixels a side.
    """
    root = temp_folder()
    count, height, width = clip.shape[:3]
    shown = {"subfolder": "", "type": "temp", "count": count, "width": width, "height": height}
    if root is None:
        return shown
    # The files are named after what is on them: other marks on the same clip write nothing.
    digest = blake2b(repr(tuple(clip.shape)).encode(), digest_size=10)
    for frame in clip:
        digest.update(_bytes(frame).tobytes())
    shown["subfolder"] = f"{FOLDER}/{digest.hexdigest()}"
    folder = root / shown["subfolder"]
    done, advance = folder / "complete", progress(count, "showing")
    if not done.exists():
        folder.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(clip):
            _small(frame).save(folder / f"{number:05d}.jpg", quality=88)
            advance(number + 1)
        done.touch()
    return shown


def shown_masks(masks: Mapping[tuple[int, int], Tensor]) -> list[dict[str, Any]]:
    """Write masks [height, width] of (frame, object) as PNG whose alpha is the mask."""
    from PIL import Image

    root, shown = temp_folder(), []
    for (frame, number), mask in masks.items():
        if root is None:
            break
        alpha = Image.fromarray((mask * 255).byte().numpy())
        picture = Image.merge("LA", (Image.new("L", alpha.size, 255), alpha))
        picture.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
        name = f"{blake2b(picture.tobytes(), digest_size=10).hexdigest()}.png"
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        picture.save(root / FOLDER / name)
        shown.append({"filename": name, "subfolder": FOLDER, "type": "temp", "frame": frame, "object": number})
    return shown


def _bytes(frame: Tensor) -> Any:
    return (frame.clamp(0, 1) * 255).round().byte().cpu().numpy()


def _small(frame: Tensor) -> Any:
    from PIL import Image

    picture = Image.fromarray(_bytes(frame))
    picture.thumbnail((SIDE, SIDE))
    return picture
