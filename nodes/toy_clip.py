"""The toy world's clips, whose true edit is known, as a node."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import multiple_of_8
from .toy import CATEGORY

SPLITS = ["train", "validation", "test", "demo"]


class ToyClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditToyClip",
            display_name="Toy Clip",
            category=CATEGORY,
            description="Renders a clip of moving shapes with its caption, an edit of it, and the true answer to that "
            "edit. The same settings give the same clip everywhere.",
            inputs=[
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate="fixed",
                             tooltip="Which clip."),
                io.Int.Input("frames", default=8, min=1, max=256, tooltip="Number of frames."),
                io.Int.Input("size", default=128, min=32, max=1024, step=8,
                             tooltip="Side in pixels, a multiple of 8. The toy model was trained at 128."),
                io.Combo.Input("edit", options=["colour", "shape", "texture", "background", "style"], default="colour",
                               tooltip="What the edit changes. A clip whose style leaves no such edit (a colour in "
                               "black and white) comes without its style."),
                io.Combo.Input("split", options=SPLITS, default="demo",
                               tooltip="Clips of different splits never coincide; the models saw only train."),
                io.Int.Input("slower", default=1, min=1, max=16, optional=True, tooltip="How many times slower things "
                             "move, from the same first frame. The toy video model was trained at 6."),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="The frames."),
                io.String.Output(display_name="caption", tooltip="What the clip shows."),
                io.String.Output(display_name="edit_prompt", tooltip="What it should show after the edit."),
                io.Mask.Output(display_name="mask", tooltip="Where the main object is visible."),
                io.Image.Output(display_name="truth", tooltip="The rendered true answer to the edit."),
                io.Float.Output(display_name="fps", tooltip="Frames a second."),
                io.String.Output(display_name="instruction", tooltip="The edit as an order, for the Toy Editor."),
            ],
        )

    @classmethod
    def execute(cls, seed, frames, size, edit, split, slower=1) -> io.NodeOutput:
        from ..toyworld import apply_edit, render
        from ..toyworld.world.edits import editable_scene
        from ..toyworld.world.scene import slowed

        multiple_of_8("size", size)
        scene, edits = editable_scene(seed, split, frames, size, edit)
        scene = slowed(scene, slower)
        # By the seed, so that neighbouring clips do not all turn the same colour.
        chosen = edits[seed % len(edits)]
        clip, answer = render(scene), render(apply_edit(scene, chosen))
        return io.NodeOutput(clip.frames, clip.caption, answer.caption, clip.masks[0], answer.frames, 8.0,
                             chosen.instruction)


NODES = [ToyClip]
