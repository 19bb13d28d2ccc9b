"""Keeping what the edit should not touch: in the latents while sampling, and in the pixels afterwards."""

from __future__ import annotations

from comfy_api.latest import io

CATEGORY = "SteadyEdit/local"


class BoundaryBlend(io.ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditBoundaryBlend",
            display_name="Boundary Blend",
            category=CATEGORY,
            description="A sampler that edits inside the mask only: outside, the latents follow the clip's inversion "
            "and end as the clip's own, bit for bit (VIA's local latent adaptation with progressive boundary "
            "integration). Works with every sampler that stops at the schedule's noise levels.",
            inputs=[
                io.Sampler.Input("sampler", tooltip="Any of KSamplerSelect's but dpm_fast and dpm_adaptive. None is "
                                 "run worse than alone: those with memory or noise keep it."),
                io.Latent.Input("inverted", tooltip="From DDIM Inversion of the clip, with its trajectory inside; "
                                "sample with the sigmas of the same node. For a flow model from Source Path."),
                io.Mask.Input("mask", tooltip="What to edit: 1 inside. One mask, or one a frame. The size may differ "
                              "from the clip's, the proportions may not."),
                io.Combo.Input("blend", options=["ramp", "no ramp", "last step only"], default="ramp",
                               tooltip="ramp: as in the paper. The other two are its ablations: full strength from the "
                               "first step (edits come out weak), and once at the end (edges show)."),
                io.Combo.Input("reading", options=["A", "B"], default="A",
                               tooltip="What grows along the ramp, where the paper can be read in two ways. A: the "
                               "source outside the mask. B: the edit inside it, with the source outside at once."),
                io.Int.Input("ramp_steps", default=0, min=0, max=1000, tooltip="Length of the ramp in sampling steps; "
                             "0 for all of them."),
                io.Boolean.Input("soft_mask", default=True, tooltip="On: a latent cell (8x8 pixels) that the mask "
                                 "covers partly is mixed by that part. Off: it is edited."),
            ],
            outputs=[io.Sampler.Output(display_name="sampler", tooltip="For SamplerCustom or SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, sampler, inverted, mask, blend, reading, ramp_steps, soft_mask) -> io.NodeOutput:
        from .. import backends
        from ..methods.trajectory_store import path_of_latent
        from ..methods.via import blend as boundary
        from ..methods.via.latent_mask import keep_mask_of

        if "noise_mask" in inverted:
            raise ValueError("inverted: carries a noise mask, which would mix the kept region a second time; remove "
                             "Set Latent Noise Mask, since this node has the mask.")
        trajectory = path_of_latent(inverted)
        keep = keep_mask_of(mask, trajectory.shape, soft_mask)
        # One mask for all frames of a video.
        keep = keep.expand(-1, -1, *trajectory.shape[2:])
        settings = boundary.BoundaryBlend(trajectory, keep, blend, reading, ramp_steps)
        return io.NodeOutput(backends.current().blend_sampler(sampler, settings))


class Composite(io.ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditComposite",
            display_name="Composite Edit",
            category=CATEGORY,
            description="Lays the edited region over the original frames, with a soft seam and matched colours. "
            "Equal latents are not equal pixels, since the VAE softens what was kept; outside of the feather this "
            "gives the original's own pixels, bit for bit.",
            inputs=[
                io.Image.Input("edited", tooltip="The decoded edit."),
                io.Image.Input("original", tooltip="The frames that were encoded, in the same number and size."),
                io.Mask.Input("mask", tooltip="What was edited: 1 inside. One mask, or one a frame."),
                io.Int.Input("feather", default=8, min=0, max=512, tooltip="Width of the seam in pixels, outside of "
                             "the mask. 0 or 1: a hard edge."),
                io.Int.Input("grow", default=0, min=-512, max=512, tooltip="Pixels by which the mask grows first; "
                             "negative ones shrink it."),
                io.Boolean.Input("match_colour", default=True, tooltip="Shift the edit's colours smoothly so that they "
                                 "meet the original's around the mask."),
            ],
            outputs=[io.Image.Output(display_name="images", tooltip="The frames, original outside of the feather.")],
        )

    @classmethod
    def execute(cls, edited, original, mask, feather, grow, match_colour) -> io.NodeOutput:
        from ..methods.via.composite import composite

        return io.NodeOutput(composite(edited, original, mask, feather, grow, match_colour))


NODES = [BoundaryBlend, Composite]
