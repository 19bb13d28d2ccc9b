"""Before and after, playing in the node."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .pictures import clip_of

if TYPE_CHECKING:
    from torch import Tensor

#: Key of the output under which web/js/compare.js finds the clip.
PLAYED = "steadyedit_compare"
#: Longer side of each picture in the preview, in pixels.
SIDE = 640


class Compare(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditCompare",
            display_name="Compare Before/After",
            category="SteadyEdit/video",
            description="Plays the clip before and after its edit in the node: side by side, with a wipe that you "
            "drag, as their difference, or one over the other. Only a small preview is written, to ComfyUI's "
            "temporary folder.",
            inputs=[
                io.Image.Input("before", tooltip="The clip before its edit."),
                io.Image.Input("after", tooltip="The clip after its edit. Another size is scaled; of another number "
                               "of frames those are shown that both have."),
                io.Float.Input("fps", default=8.0, min=0.1, max=240.0, step=0.1, tooltip="Frames a second of the "
                               "preview: Load Frames and Get Video Components tell the clip's own."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The clip after its edit, unchanged.")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, before, after, fps) -> io.NodeOutput:
        return io.NodeOutput(after, ui=in_the_node(clip_of(before, "before"), clip_of(after, "after"), fps, cls))


def in_the_node(before: Tensor, after: Tensor, fps: float, cls: type) -> Any:
    """What the node's widget plays, and a plain picture for editors without it; without an editor nothing."""
    from comfy_api.latest import ui

    if not hasattr(ui.PreviewImage, "as_dict"):
        return None
    import uuid
    from pathlib import Path

    import folder_paths

    from ..video.write import write_clip

    frames = min(len(before), len(after))
    height, width = pane(*before.shape[1:3])
    name = f"steadyedit_compare_{uuid.uuid4().hex[:12]}.mp4"
    write_clip(Path(folder_paths.get_temp_directory()) / name, pairs(before[:frames], after[:frames], height, width),
               fps, crf=18)
    still = next(pairs(before[frames // 2 :], after[frames // 2 :], height, width))
    played = {"filename": name, "subfolder": "", "type": "temp", "frames": frames, "fps": fps, "width": width,
              "height": height, "before": len(before), "after": len(after)}
    return {"images": ui.PreviewImage(still[None], cls=cls).as_dict()["images"], PLAYED: [played]}


def pane(height: int, width: int) -> tuple[int, int]:
    """Height and width of one picture in the preview: even, at most ``SIDE``, never enlarged."""
    scale = min(1.0, SIDE / max(height, width))
    rows, columns = (max(2, round(side * scale / 2) * 2) for side in (height, width))
    return rows, columns


def pairs(before: Tensor, after: Tensor, height: int, width: int) -> Iterator[Tensor]:
    """Each frame's two pictures beside each other, [height, 2 width, 3]: in one video they cannot drift apart."""
    import torch

    from ..methods.plate.boxes import resized

    for frames in zip(before, after, strict=False):
        yield torch.cat([resized(frame.clamp(0, 1), height, width) for frame in frames], 1)


NODES = [Compare]
