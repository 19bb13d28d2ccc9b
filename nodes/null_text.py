"""From a clip to noise and negative prompts from which guided sampling gives the clip back."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import clip_latent, conditions_fit, explain_out_of_memory, no_noise_mask, size_fits
from .training import cache_of, loss_map_output, reuse_input


class NullTextInversion(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditNullTextInversion",
            display_name="Null-Text Inversion",
            category="SteadyEdit/sample",
            description="DDIM Inversion that holds under guidance: a negative prompt for every step is found by which "
            "sampling at this guidance gives the clip back. An edit then changes what its words change. Cancelled, it "
            "goes on after its last step next time.",
            inputs=[
                io.Model.Input("model", tooltip="The model that will sample the edit, with what is attached to it. It "
                               "is not changed."),
                io.Conditioning.Input("conditioning", tooltip="What the clip shows: one prompt."),
                io.Conditioning.Input("negative", tooltip="What the negative prompts begin as: an empty prompt."),
                io.Latent.Input("latent", tooltip="The clip, all frames as one batch."),
                io.Int.Input("steps", default=50, min=1, max=999,
                             tooltip="Steps of inversion and sampling. The authors: 50; best a divisor of 1000."),
                io.Float.Input("guidance", default=7.5, min=0.0, max=100.0, step=0.1, tooltip="The cfg of the sampler "
                               "behind it. The authors: 7.5."),
                io.Int.Input("inner_steps", default=10, min=1, max=1000, tooltip="Of the search in each step, at most. "
                             "The authors: 10."),
                io.Float.Input("learning_rate", default=1e-2, min=1e-6, max=1.0, step=1e-3, round=False,
                               tooltip="Of the search; it falls to a half in the last step. The authors: 0.01."),
                io.Float.Input("stop", default=1e-5, min=0.0, max=1.0, step=1e-6, round=False, tooltip="How near is "
                               "near enough in the first step, as mean square error; 0.001 more in the last. The "
                               "authors: 0.00001."),
                io.Boolean.Input("per_frame", default=True, tooltip="A negative prompt for each frame, as for pictures "
                                 "one by one. Off: one for all frames, as Video-P2P has it."),
                reuse_input("what was found"),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The noise, with the whole trajectory inside."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels, descending, for SamplerCustom."),
                io.Conditioning.Output(display_name="negative", tooltip="A prompt for every step, for the sampler's "
                                       "negative."),
                loss_map_output(),
            ],
        )

    @classmethod
    def execute(cls, model, conditioning, negative, latent, steps, guidance, inner_steps, learning_rate, stop,
                per_frame, reuse) -> io.NodeOutput:
        import torch

        from .. import backends
        from ..methods.null_text import NullTextRecipe, invert
        from ..methods.trajectory_store import with_trajectory
        from ..methods.tuning import loss_map

        no_noise_mask(latent)
        backend, recipe = backends.of(model), NullTextRecipe(guidance, inner_steps, learning_rate, stop, per_frame)
        samples = clip_latent(latent)
        for name, given in (("conditioning", conditioning), ("negative", negative)):
            conditions_fit(name, given, len(samples))
        size_fits(backend, model, samples)
        with explain_out_of_memory(backend, "inverting", samples):
            found = invert(backend, model, samples, conditioning, negative, steps, recipe,
                           cache=cache_of(backend, reuse))
        path = torch.stack([x.half() for x in found.trajectory])
        return io.NodeOutput(with_trajectory(latent, found.trajectory[-1], path, found.sigmas.flip(0)), found.sigmas,
                             found.negative, loss_map(found.losses))


NODES = [NullTextInversion]
