"""VIDEO values, with the calls of the host's that nodes use."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VideoComponents:
    """images: [F, H, W, 3] in 0..1; audio: AUDIO or None; frame_rate: frames a second."""

    images: Tensor
    frame_rate: Fraction
    audio: Any = None


class Video:
    """VIDEO made of components, or lying in a file that is read when asked for."""

    def __init__(self, components: VideoComponents | None = None, path: Path | None = None):
        self._components, self._path = components, path

    def get_components(self) -> VideoComponents:
        if self._components is None:
            assert self._path is not None  # one of the two is given
            from ..video.read import read_clip

            clip = read_clip(self._path)
            self._components = VideoComponents(clip.frames, clip.fps, clip.audio)
        return self._components

    def get_stream_source(self) -> str:
        """The path of the file. Raises ValueError for a VIDEO that is in no file."""
        if self._path is None:
            raise ValueError("video: it was made in this graph and is in no file; take its frames instead.")
        return str(self._path)

    def get_dimensions(self) -> tuple[int, int]:
        """Width and height."""
        return tuple(self.get_components().images.shape[2:0:-1])

    def save_to(self, path: Path) -> None:
        """Write the file at once or not at all."""
        from ..video.write import write_clip

        components = self.get_components()
        write_clip(path, components.images, components.frame_rate, audio=components.audio)
