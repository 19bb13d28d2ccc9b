"""VIA's gather-swap attention, as a change of the MODEL that every sampler takes."""

from __future__ import annotations

from comfy_api.latest import io

from .attach import CATEGORY, attached, model_input, model_output
from .checks import whole_numbers


class GatherSwap(io.ComfyNode):
    METHOD = "gather-swap"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditGatherSwap",
            display_name="Gather-Swap: edit all frames alike (VIA)",
            category=CATEGORY,
            description="Every frame attends to a few group frames of the clip instead of to itself, so that all "
            "frames are edited alike. Works with any sampler and guider, on instruction editors and on text-to-image "
            "models: Stable Diffusion, FLUX (Kontext), Qwen-Image (Edit). What it keeps does not grow with the clip.",
            inputs=[
                model_input("A Stable Diffusion 1.x, 2.x or SDXL model, FLUX or Qwen-Image. It is not changed."),
                io.Int.Input("group", default=4, min=1, max=64, tooltip="How many frames, evenly spread over the clip, "
                             "all others look at. The paper: 4. At most as many as the clip has."),
                io.Boolean.Input("self_attention", default=True, tooltip="Swap self-attention: frames take over the "
                                 "group's looks."),
                io.Boolean.Input("cross_attention", default=True, tooltip="Swap cross-attention too. With one prompt "
                                 "for all frames it changes nothing; it matters with one prompt per frame."),
                io.Float.Input("start", default=0.0, min=0.0, max=1.0, step=0.05, tooltip="From which share of the "
                               "sampling steps on. The paper: from the first step, 0."),
                io.Float.Input("end", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="Up to which share of the "
                               "sampling steps. The paper: the first 8 of 10. The last ones bring back each frame's "
                               "own details."),
                io.Combo.Input("layers", options=["all", "down", "middle", "up"], default="all",
                               tooltip="Which layers of the U-Net swap. The paper: all, which is all that FLUX and "
                               "Qwen-Image have."),
                io.Int.Input("chunk", default=0, min=0, max=4096, tooltip="Frames in one call of the U-Net. 0 chooses "
                             "by free memory, up to 16. The result does not depend on it."),
                io.String.Input("group_frames", default="", optional=True, tooltip="Numbers of the group's frames, "
                                "such as 0, 12, 40, counted from 0, if you choose them by hand. Empty spreads the "
                                "group evenly over the clip."),
                io.Latent.Input("key_frames", optional=True, tooltip="Frames that you have painted or edited, encoded "
                                "one by one, in the order of group_frames, which names the number of each: they are "
                                "the group as they stand, and all frames take over their looks."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, group, self_attention, cross_attention, start, end, layers, chunk,
                group_frames="", key_frames=None) -> io.NodeOutput:
        painted = None if key_frames is None else key_frames["samples"].clone()
        return attached(model, cls.METHOD, group=group, self_attention=self_attention,
                        cross_attention=cross_attention, start=start, end=end, blocks=layers, chunk=chunk,
                        frames=whole_numbers("group_frames", group_frames), painted=painted)


NODES = [GatherSwap]
