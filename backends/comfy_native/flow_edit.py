"""FlowEdit as a GUIDER of the host, which knows two sides, and the SAMPLER that asks it for both."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import torch

from ...methods.finite import check_finite
from ...methods.flow_edit import SOURCE, TARGET, check_sigmas, flow_edit
from ...methods.via.latent_mask import keep_mask_of
from .hint_pictures import picture_hints
from .planned import planned
from .planned_checks import check_references

if TYPE_CHECKING:
    from collections.abc import Callable

    from comfy.model_patcher import ModelPatcher
    from torch import Tensor

    from ...methods.flow_edit import FlowEdit, FlowEditPrompts

#: Names of the conditions by side: the host passes what hangs on "positive", such as a ControlNet's reach, on.
POSITIVE = {TARGET: "positive", SOURCE: "source"}
NEGATIVE = {TARGET: "negative", SOURCE: "source_negative"}


def flow_edit_guider(
    model: ModelPatcher, prompts: FlowEditPrompts, settings: FlowEdit
) -> tuple[FlowEditGuider, FlowEditSampler]:
    """A GUIDER with its SAMPLER; the MODEL is not changed.

    Raises:
        TypeError: the MODEL is no flow model (one sentence).
        ValueError: a method on it has a part in the sampler's run (one sentence).
    """
    check_flow(model, "FlowEdit")
    if (found := planned(model.model_options)) is not None:
        name = found[0].name
        raise ValueError(f"model: carries {name}, which needs a hand in the sampler's run, but FlowEdit has its own "
                         f"sampler; give FlowEdit the model from before {name}.")
    return FlowEditGuider(model, prompts, settings), FlowEditSampler()


def check_flow(model: ModelPatcher, what: str) -> None:
    """Raise TypeError (one sentence) unless the MODEL is a flow: x_sigma = (1 - sigma) x_0 + sigma eps."""
    if not is_flow(model.get_model_object("model_sampling")):
        raise TypeError(f"model: {what} needs a flow model, such as Wan, HunyuanVideo, LTX, FLUX or SD3, but a "
                        f"{type(model.model).__name__} is none.")


def is_flow(sampling: Any) -> bool:
    """Whether a model sampling of the host's is x_sigma = (1 - sigma) x_0 + sigma eps."""
    other = getattr(comfy.model_sampling, "IMG_TO_IMG_FLOW", ())  # its path has no noise in it
    return isinstance(sampling, comfy.model_sampling.CONST) and not isinstance(sampling, other)


class FlowEditGuider(comfy.samplers.CFGGuider):
    """The host's guider with two sides; ``side`` says which one a call is about."""

    def __init__(self, model: ModelPatcher, prompts: FlowEditPrompts, settings: FlowEdit) -> None:
        super().__init__(model)
        self.settings = settings
        self.side: str | None = None
        self.scales = {SOURCE: prompts.source_guidance, TARGET: prompts.target_guidance}
        given = {POSITIVE[TARGET]: prompts.target, NEGATIVE[TARGET]: prompts.negative,
                 POSITIVE[SOURCE]: prompts.source, NEGATIVE[SOURCE]: prompts.source_negative}
        self.inner_set_conds({name: conditioning for name, conditioning in given.items() if conditioning is not None})

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: Any = None, seed: Any = None) -> Tensor:
        """x_0 under the side that is asked about."""
        if self.side is None:
            raise ValueError("sampler: FlowEdit's guider works with the sampler of the same node only; connect that.")
        return comfy.samplers.sampling_function(
            self.inner_model, x, timestep, self.conds.get(NEGATIVE[self.side]), self.conds[POSITIVE[self.side]],
            self.scales[self.side], model_options=model_options or {}, seed=seed)

    def sample(self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, denoise_mask: Any = None,
               callback: Any = None, disable_pbar: bool = False, seed: int | None = None) -> Tensor:
        """The edited LATENT samples.

        Raises:
            ValueError: what is given is not the source's, or not FlowEdit's (one sentence).
        """
        if not isinstance(sampler, FlowEditSampler):
            raise ValueError("sampler: FlowEdit's guider works with the sampler of the same node only; connect that.")
        if denoise_mask is not None:
            raise ValueError("latent_image: carries a noise mask; remove Set Latent Noise Mask, and give the mask to "
                             "FlowEdit.")
        self._check_latent(latent_image)
        check_references(self, self.model_patcher)
        check_sigmas(sigmas, self.settings)
        if not torch.count_nonzero(noise):
            raise ValueError("noise: FlowEdit draws noise at every step, from the seed of this input; connect "
                             "RandomNoise.")
        if getattr(self.model_options.get("context_handler"), "freenoise", False):
            raise ValueError("model: its context windows have freenoise on, which shuffles the noise that a run begins "
                             "with, but FlowEdit draws noise at every step; turn freenoise off there.")
        keep = self.keep_of(latent_image.shape)
        with picture_hints(self.original_conds, latent_image):
            out = super().sample(noise, latent_image, sampler, sigmas, None, callback, disable_pbar, seed)
        # Scaling to the model's latents and back has rounded what was kept.
        return out if keep is None else torch.where(keep.to(out.device) == 1, latent_image.to(out), out)

    def keep_of(self, shape: torch.Size) -> Tensor | None:
        """What is kept of a LATENT of this shape, 1 outside of the mask; None without a mask."""
        mask, soft = self.settings.mask, self.settings.soft
        if mask is None:
            return None
        stride = getattr(self.model_patcher.model.latent_format, "temporal_downscale_ratio", None)
        return keep_mask_of(mask, shape, soft, stride)

    def _check_latent(self, latent: Tensor) -> None:
        formats = self.model_patcher.model.latent_format
        if latent.is_nested:
            raise ValueError("latent_image: holds a video with its sound; FlowEdit edits the video's latent alone.")
        if latent.ndim != formats.latent_dimensions + 2 or latent.shape[1] != formats.latent_channels:
            frames = "frames, " if formats.latent_dimensions == 3 else ""
            raise ValueError(f"latent_image: expected [batch, {formats.latent_channels}, {frames}height, width] for "
                             f"this model, but got {list(latent.shape)}; encode the source with the model's own VAE.")
        if not torch.count_nonzero(latent):
            raise ValueError("latent_image: is empty, but FlowEdit changes a source; connect a VAE Encode of the clip.")
        check_finite("latent_image", latent)
        for conditions in self.original_conds.values():
            for condition in conditions:
                picture = condition.get("concat_latent_image")
                if picture is not None and picture.shape[2:] != latent.shape[2:]:
                    raise ValueError(f"latent_image: {list(latent.shape[2:])} is another size than the "
                                     f"{list(picture.shape[2:])} that the prompts were made for; make them for the "
                                     "source's size and length.")


class FlowEditSampler(comfy.samplers.Sampler):
    """The SAMPLER of a ``FlowEditGuider``; it holds nothing."""

    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict[str, Any], callback: Callable | None,
               noise: Tensor, latent_image: Tensor, denoise_mask: Tensor | None = None, disable_pbar: bool = False
               ) -> Tensor:
        """The edited latents in the model's scale; the signature is the host's."""
        if not isinstance(model_wrap, FlowEditGuider):
            raise ValueError("guider: FlowEdit's sampler works with the guider of the same node only; connect that.")
        settings, sampling = model_wrap.settings, model_wrap.inner_model.model_sampling
        keep = model_wrap.keep_of(latent_image.shape)
        ones = latent_image.new_ones(len(latent_image))

        def velocity(x: Tensor, sigma: Tensor, side: str) -> Tensor:
            comfy.model_management.throw_exception_if_processing_interrupted()
            model_wrap.side = side
            return (x - model_wrap(x, sigma * ones, **extra_args)) / sigma

        def noisy(sigma: Tensor, eps: Tensor) -> Tensor:
            return sampling.noise_scaling(sigma, eps.to(latent_image), latent_image, False)

        def report(step: int, x: Tensor, foreseen: Tensor) -> None:
            if callback is not None:
                callback(step, foreseen, x, settings.n_max)

        try:
            return flow_edit(velocity, noisy, settings.draws(latent_image.shape, extra_args.get("seed") or 0),
                             latent_image, sigmas, settings, None if keep is None else keep.to(latent_image), report)
        finally:
            model_wrap.side = None
