"""RAVE's noise shuffling, as a change of the MODEL that every sampler takes."""

from __future__ import annotations

from comfy_api.latest import io

from .attach import CATEGORY, attached, model_input, model_output


class RAVE(io.ComfyNode):
    METHOD = "rave"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditRAVE",
            display_name="RAVE: shuffled frame grids",
            category=CATEGORY,
            description="Frames are denoised in grids of several, put together anew at every step, so that each frame "
            "meets all others and the clip gets one look. Made for a ControlNet and inverted latents. Works with any "
            "sampler, since only the model's evaluation is laid out.",
            inputs=[
                model_input(),
                io.Int.Input("grid", default=3, min=1, max=8, tooltip="Frames a side of a grid: 3 puts 9 frames into "
                             "one picture (the paper's), 2 puts 4. 1 is plain sampling. A picture of 3x3 frames takes "
                             "the memory of one picture that large."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate="fixed",
                             tooltip="Of the random orders of frames, not of the noise."),
                io.Boolean.Input("shuffle", default=True, tooltip="Off keeps the clip's order at every step, so that "
                                 "only frames of one grid agree (the paper's ablation)."),
                io.Int.Input("chunk", default=0, min=0, max=4096, tooltip="Grids in one call of the U-Net. 0 chooses "
                             "by free memory. The result does not depend on it."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, grid, seed, shuffle, chunk) -> io.NodeOutput:
        return attached(model, cls.METHOD, grid=grid, seed=seed, shuffle=shuffle, chunk=chunk)


NODES = [RAVE]
