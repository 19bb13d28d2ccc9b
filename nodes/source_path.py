"""Where a clip itself is at each noise level of a flow model, for Boundary Blend."""

from __future__ import annotations

from comfy_api.latest import io

#: How the path is found.
WAYS = ("exact", "inverted")


class SourcePath(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditSourcePath",
            display_name="Source Path (flow models)",
            category="SteadyEdit/sample",
            description="What DDIM Inversion is to Stable Diffusion, for flow models (Wan, HunyuanVideo, LTX, FLUX, "
            "SD3, Qwen-Image): where the clip itself is at each noise level, for Boundary Blend. Known exactly "
            "without any inversion, or inverted, so that an edit begins from the clip's own noise.",
            inputs=[
                io.Model.Input("model", tooltip="The flow model that will sample the edit."),
                io.Latent.Input("latent", tooltip="The encoded clip: a video's latent, or frames as a batch."),
                io.Combo.Input("way", options=list(WAYS), default=WAYS[0], tooltip="exact: the clip mixed with the "
                               "edit's own noise; costs nothing and fits any sigmas. inverted: two evaluations of the "
                               "model a step find the noise from which it samples the clip (to second order), so that "
                               "the edit keeps the clip's composition."),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate="fixed",
                             tooltip="Of the noise, where it is drawn."),
                io.Boolean.Input("shared_noise", default=True, tooltip="For image models: all frames get the same "
                                 "noise, so that they change alike."),
                io.Sigmas.Input("sigmas", optional=True, tooltip="inverted: the noise levels that the edit will be "
                                "sampled with, from a scheduler of this model."),
                io.Conditioning.Input("conditioning", optional=True, tooltip="inverted: what the clip shows, or an "
                                      "empty prompt, which edits more."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The clip with its path inside: for Boundary Blend, "
                                 "and as latent_image of SamplerCustomAdvanced."),
                io.Noise.Output(display_name="noise", tooltip="For SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    def execute(cls, model, latent, way, seed, shared_noise, sigmas=None, conditioning=None) -> io.NodeOutput:
        import torch

        from .. import backends
        from ..methods.trajectory_store import with_flow_path, with_trajectory
        from ..methods.via.source_path import PathNoise, noise_at_top
        from .checks import explain_out_of_memory

        if "noise_mask" in latent:
            raise ValueError("latent: carries a noise mask; remove Set Latent Noise Mask, and keep a region with "
                             "Boundary Blend.")
        backend, samples = backends.of(model), latent["samples"]
        backend.check_flow(model, "Source Path")
        if way == "exact":
            return io.NodeOutput(with_flow_path(latent), PathNoise(seed, shared_noise))
        if sigmas is None or conditioning is None:
            raise ValueError(f"{'sigmas' if sigmas is None else 'conditioning'}: the inverted way needs the sampler's "
                             "sigmas and a prompt; connect both, or choose exact.")
        levels = sigmas.flip(0)
        progress = backend.progress(len(levels) - 1, "inversion")
        with explain_out_of_memory(backend, "inverting", samples):
            steps = backend.invert_flow(model, conditioning, samples, levels, progress)
        noise = noise_at_top(backend.to_model_space(model, steps[-1]), backend.to_model_space(model, steps[0]),
                             float(levels[-1]))
        half = torch.stack([x.half() for x in steps])
        return io.NodeOutput(with_trajectory(latent, samples, half, levels), PathNoise(seed, inverted=noise))


NODES = [SourcePath]
