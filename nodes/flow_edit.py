"""Text edits of a clip with a flow model, without inverting or training."""

from __future__ import annotations

from comfy_api.latest import io


class FlowEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditFlowEdit",
            display_name="FlowEdit",
            category="SteadyEdit/sample",
            description="Edits a clip or pictures by words with a stock flow model (Wan, HunyuanVideo, LTX, FLUX, "
            "SD3): no inversion, no training. Say what is there and what shall be there, and sample the encoded clip "
            "with SamplerCustomAdvanced: RandomNoise, both outputs of this node, a scheduler's sigmas at denoise 1.",
            inputs=[
                io.Model.Input("model", tooltip="A flow model: text-to-video, image-to-video or image."),
                io.Conditioning.Input("source", tooltip="What the clip shows, in the model's kind of words; for an "
                                      "image-to-video model with the clip's first frame."),
                io.Conditioning.Input("target", tooltip="What the edit shall show: best the same words with those "
                                      "changed that shall change. For an image-to-video model with the edited first "
                                      "frame."),
                io.Float.Input("source_guidance", default=3.5, min=1.0, max=100.0, step=0.1,
                               tooltip="Guidance (CFG) on the source's words. The paper's 3.5 is Stable Diffusion 3's. "
                               "FLUX: 1 here, and 1.5 in the FluxGuidance of source."),
                io.Float.Input("target_guidance", default=13.5, min=1.0, max=100.0, step=0.1,
                               tooltip="Guidance (CFG) on the target's words; more changes more. The paper's 13.5 is "
                               "Stable Diffusion 3's. FLUX: 1 here, and 5.5 in the FluxGuidance of target."),
                io.Int.Input("n_max", default=33, min=1, max=10000, tooltip="How many of the scheduler's steps are "
                             "taken, the last ones: fewer keep more of the clip. The paper: 33 of 50 (Stable Diffusion "
                             "3), 24 of 28 (FLUX)."),
                io.Int.Input("n_min", default=0, min=0, max=10000, tooltip="How many of these, at the end, are plain "
                             "sampling under the target: more let textures and style change. The paper: 0."),
                io.Int.Input("n_avg", default=1, min=1, max=100, tooltip="Draws of noise that each step averages; two "
                             "take twice as long. The paper: 1."),
                io.Boolean.Input("shared_noise", default=True, tooltip="For image models, where frames are a batch: "
                                 "all get the same noise, so that they change alike. A video model's clip is one "
                                 "anyway."),
                io.Boolean.Input("soft_mask", default=True, tooltip="On: a latent cell that the mask covers partly "
                                 "moves by that part. Off: it is edited."),
                io.Conditioning.Input("negative", optional=True, tooltip="What the edit shall not show; may be an "
                                      "empty prompt. Not needed where both guidances are 1."),
                io.Conditioning.Input("source_negative", optional=True, tooltip="Another negative for the source, "
                                      "as image-to-video models need, with the first frame inside. Without one: "
                                      "negative."),
                io.Mask.Input("mask", optional=True, tooltip="What to edit, 1 inside; outside, the latents stay the "
                              "clip's own, bit for bit. One mask, or one a frame."),
            ],
            outputs=[
                io.Guider.Output(display_name="guider", tooltip="For SamplerCustomAdvanced, with this node's sampler."),
                io.Sampler.Output(display_name="sampler",
                                  tooltip="For SamplerCustomAdvanced, with this node's guider."),
            ],
        )

    @classmethod
    def execute(cls, model, source, target, source_guidance, target_guidance, n_max, n_min, n_avg, shared_noise,
                soft_mask, negative=None, source_negative=None, mask=None) -> io.NodeOutput:
        from .. import backends
        from ..methods import flow_edit
        from ..methods.via.latent_mask import check_mask

        if mask is not None:
            check_mask(mask, len(mask))
        prompts = flow_edit.FlowEditPrompts(source, target, negative, negative if source_negative is None
                                            else source_negative, source_guidance, target_guidance)
        settings = flow_edit.FlowEdit(n_max, n_min, n_avg, shared_noise, mask, soft_mask)
        return io.NodeOutput(*backends.of(model).flow_edit(model, prompts, settings))


NODES = [FlowEdit]
