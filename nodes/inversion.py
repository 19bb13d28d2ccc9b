"""From a clip to the noise that sampling starts from."""

from __future__ import annotations

from comfy_api.latest import io

from .checks import clip_latent, conditions_fit, explain_out_of_memory, no_noise_mask, size_fits


class DDIMInversion(io.ComfyNode):
    frame_by_frame = True

    #: A folder for the steps, where a run is to go on in the middle of them: set by the streaming command line.
    FOLDER = None

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditDDIMInversion",
            display_name="DDIM Inversion",
            category="SteadyEdit/sample",
            description="Finds the noise from which the model samples this clip again. Sample the edit from it with "
            "SamplerCustom (add_noise off, these sigmas) or KSamplerAdvanced (add_noise disable, ddim_uniform).",
            inputs=[
                io.Model.Input("model", tooltip="The (tuned) model that will sample the edit."),
                io.Conditioning.Input("conditioning", tooltip="The papers: an empty prompt. The clip's own prompt "
                                      "reconstructs more closely and edits less."),
                io.Latent.Input("latent", tooltip="The clip, all frames as one batch."),
                io.Int.Input("steps", default=50, min=1, max=999,
                             tooltip="Steps of inversion and sampling. The papers use 50; best a divisor of 1000."),
                io.Int.Input("refinement", default=0, min=0, max=20, tooltip="Fixed-point iterations per step. 0 is "
                             "plain DDIM inversion; 2 to 5 come close to an exact inverse, each as dear as one run."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent", tooltip="The noise, with the whole trajectory inside."),
                io.Sigmas.Output(display_name="sigmas", tooltip="The noise levels, descending, for SamplerCustom."),
            ],
        )

    @classmethod
    def execute(cls, model, conditioning, latent, steps, refinement) -> io.NodeOutput:
        import torch

        from .. import backends
        from ..methods.content_hash import content_hash
        from ..methods.progress import Part
        from ..methods.prompts import check_every_level
        from ..methods.trajectory_store import inverted, with_trajectory

        no_noise_mask(latent)
        backend = backends.of(model)
        samples = clip_latent(latent)
        conditions_fit("conditioning", conditioning, len(samples))
        check_every_level("conditioning", conditioning)
        size_fits(backend, model, samples)
        sigmas = backend.schedule(model).ddim_sigmas(steps)
        progress = backend.progress(len(sigmas) - 1, "inversion")
        with explain_out_of_memory(backend, "inverting", samples):
            if cls.FOLDER is None:
                steps = backend.invert(model, conditioning, samples, sigmas.flip(0), refinement, progress)
                # Outputs stay in memory until the graph changes: half the bits are enough to blend with.
                last, steps = steps[-1], torch.stack([x.half() for x in steps])
            else:
                def advance(number, x, levels):
                    return backend.invert(model, conditioning, x, levels, refinement, Part(progress, number))[-1]

                trajectory, last = inverted(cls.FOLDER, samples, sigmas.flip(0), advance,
                                            [content_hash(conditioning), refinement])
                steps = trajectory.steps
        return io.NodeOutput(with_trajectory(latent, last, steps, sigmas.flip(0)), sigmas)


NODES = [DDIMInversion]
