"""Node classes that a windowed graph has in place of others: the window's frames, an inversion on disk, the end."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..files.names import safe_name
from ..streaming.source import FileFrames
from ..video.geometry import for_a_model
from ..video.read import MEAN
from .graph import GraphError
from .host_api import ComfyNode, Input, NodeOutput, Output, Schema

WINDOW, INVERT, COLLECT = "window", "invert", "collect"
#: Output of a source that is the frame rate.
RATE = 2


@dataclass
class Source:
    """A node that gives the frames of a file, and the frames that it gives now."""

    key: str
    path: Path
    settings: dict[str, Any]
    frames: torch.Tensor | None = None
    clip: FileFrames = field(init=False)

    def __post_init__(self) -> None:
        widgets = {name: self.settings[name] for name in ("size", "fit", "background") if name in self.settings}
        for name, plain in (("timing", MEAN), ("length", "any")):
            if (given := self.settings.get(name, plain)) != plain:
                raise GraphError(f"node {self.key}: {name}: {given!r} is not known to streaming, which counts frames "
                                 f"at the file's mean rate; set it to {plain!r}.")
        where = {name: self.settings[name] for name in ("start", "count", "stride") if name in self.settings}
        self.clip = FileFrames(self.path, **where, geometry=for_a_model(**widgets) if widgets else {})


def window_node(sources: dict[str, Source], schemas: dict[str, Any]) -> dict[str, type[Any]]:
    """Node classes, by ``class_type``, that give what each source holds now."""

    def made(source: Source) -> type[Any]:
        class Window(ComfyNode):
            @classmethod
            def define_schema(cls) -> Schema:
                return Schema(WINDOW, [], schemas[source.key])

            @classmethod
            def execute(cls) -> NodeOutput:
                rest = [None] * (len(schemas[source.key]) - RATE - 1)
                return NodeOutput(source.frames, None, float(source.clip.fps), *rest)

        return Window

    return {f"{WINDOW}:{key}": made(source) for key, source in sources.items()}


@dataclass
class Place:
    """The folder in which what belongs to the present window is kept."""

    folder: Path | None = None


def inversion_node(node: type[Any], key: str, place: Place) -> type[Any]:
    """An inversion that keeps its steps in the window's folder, and goes on there after the last of them."""

    class Inversion(node):
        @classmethod
        def execute(cls, **inputs: Any) -> NodeOutput:
            name = f"trajectory_{safe_name(key)}"
            cls.FOLDER = place.folder and place.folder / name
            return super().execute(**inputs)

    return Inversion


class Collect(ComfyNode):
    """The frames that would have gone into the video."""

    @classmethod
    def define_schema(cls) -> Schema:
        return Schema(COLLECT, [Input("IMAGE", "images")], [Output("IMAGE")], is_output_node=True)

    @classmethod
    def execute(cls, images: torch.Tensor) -> NodeOutput:
        return NodeOutput(images)
