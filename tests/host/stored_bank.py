"""Gather-swap as the paper tells it, in the host: the group's frames first, one run each, with all keys stored.

Nothing of lock-step is used: plain MODELs, the host's own guiders and samplers, one replacement
of attention written by hand, and conditions that hold one frame. Numbers are float64 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import comfy.samplers
import torch
from comfy.k_diffusion import sampling as k_diffusion
from comfy.patcher_extension import WrappersMP
from toys import BACKEND


@dataclass
class Case:
    """One clip, and everything that is per frame as a function of frame ids.

    ``conditions(ids)`` gives a CONDITIONING for every branch by the guider's names.
    """

    noise: torch.Tensor
    conditions: Callable
    guider: Callable = comfy.samplers.CFGGuider
    scales: tuple = (4.0,)
    latent: torch.Tensor | None = None
    mask: torch.Tensor | None = None
    sampler: str = "euler"
    steps: int = 4

    def sigmas(self, patcher):
        return BACKEND.schedule(patcher).ddim_sigmas(self.steps).float()


def in_double(patcher):
    """A clone that computes in float64; the host's own ``apply_model`` rounds to float32."""
    clone = patcher.clone()

    def apply(inner, arguments):
        base, x, sigma, c = inner.__self__, arguments["input"], arguments["timestep"], dict(arguments["c"])
        parts = [base.model_sampling.calculate_input(sigma, x), c.get("c_concat")]
        out = base.diffusion_model(
            torch.cat([part.double() for part in parts if part is not None], 1), base.model_sampling.timestep(sigma),
            context=c["c_crossattn"].double(), control=c.get("control"), transformer_options=c["transformer_options"])
        return base.model_sampling.calculate_denoised(sigma, out, x)

    clone.set_model_unet_function_wrapper(apply)
    return clone


def run(patcher, case, ids, noise_sampler=False):
    """One run of the host's sampler on frames ``ids``; returns its batch in float64, before the host rounds it."""
    guider = case.guider(patcher)
    guider.set_conds(*case.conditions(ids))
    guider.set_cfg(*case.scales)
    stock, kept = comfy.samplers.sampler_object(case.sampler), {}

    def in_float64(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        x = x.double()
        # What a mask leaves out is noised with these; for a batch of one the host would do it in float32.
        model.noise, model.latent_image = model.noise.double(), model.latent_image.double()
        if noise_sampler:
            whole = torch.zeros(len(case.noise), *x.shape[1:], dtype=x.dtype)
            if "sde" in case.sampler:
                ends = sigmas[sigmas > 0].min(), sigmas.max()
                draw = k_diffusion.BrownianTreeNoiseSampler(whole, *ends, seed=extra_args["seed"], cpu=True)
            else:
                draw = k_diffusion.default_noise_sampler(whole, seed=extra_args["seed"])
            options["noise_sampler"] = lambda *between: draw(*between)[list(ids)]
        kept["x"] = stock.sampler_function(model, x, sigmas.double(), extra_args=extra_args, callback=callback,
                                           disable=disable, **options)
        return kept["x"].float()

    ids = list(ids)
    noise, latent = case.noise[ids], torch.zeros_like(case.noise) if case.latent is None else case.latent
    guider.sample(
        noise, latent[ids], comfy.samplers.KSAMPLER(in_float64, stock.extra_options, stock.inpaint_options),
        case.sigmas(patcher), denoise_mask=None if case.mask is None else case.mask[ids], disable_pbar=True, seed=3)
    return kept["x"][: len(ids)]


@dataclass
class StoredBank:
    """The two passes over a MODEL that has no attachments of lanes; ``painted`` are LATENT samples of the group's
    frames, which are then not edited: at each noise level they are looked at as they are, each with its own keys."""

    patcher: object
    sites: list
    group: tuple
    stop: float
    kinds: tuple = ("attn1", "attn2")
    bank: dict = field(default_factory=dict)
    editing: int | None = None
    evaluation: int = 0
    painted: torch.Tensor | None = None

    def edit(self, case, draws=False):
        """The clip's frames, [F, ...]."""
        for position, frame in enumerate(self.group):
            self.editing, self.evaluation = position, 0
            self.noise = case.noise[frame : frame + 1].double()
            run(self.patched(), case, [frame], draws)
        self.editing, self.evaluation = None, 0
        return run(self.patched(), case, range(len(case.noise)), draws)

    def patched(self):
        clone, names = self.patcher.clone(), {}

        def counted(executor, model, conds, x, sigma, *args):
            self.evaluation += 1
            if self.editing is not None and self.painted is not None:
                picture = self.painted[self.editing : self.editing + 1].double()
                x = model.latent_format.scale_factor * picture + float(sigma[0]) * self.noise
            for i, conditions in enumerate(conds):
                names.update({(i, c["uuid"]): (i, j) for j, c in enumerate(conditions or ())})
            return executor(model, conds, x, sigma, *args)

        clone.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "test", counted)
        for path, key in self.sites:
            for kind in self.kinds:
                set_replace = getattr(clone, f"set_model_{kind}_replace")
                set_replace(self.attention(path, kind, names), *key)
        return clone

    def attention(self, path, kind, names):
        def replaced(q, k, v, options):
            branches = list(zip(options["cond_or_uncond"], options["uuids"], strict=True))
            rows = []
            for n, (q_, k_, v_) in enumerate(zip(q, k, v, strict=True)):
                branch = names[branches[n * len(branches) // len(q)]]
                if float(options["sigmas"][0]) > self.stop * (1 + 1e-6):
                    k_, v_ = self.keys((self.evaluation, branch, path, kind), k_, v_)
                rows.append(softmax_attention(q_, k_, v_, options["n_heads"]))
            return torch.stack(rows)

        return replaced

    def keys(self, place, k, v):
        if self.editing is None:
            stored = [self.bank[(j, *place)] for j in range(len(self.group))]
            return tuple(torch.cat(parts) for parts in zip(*stored, strict=True))
        self.bank[(self.editing, *place)] = k, v
        if self.painted is not None:
            return k, v
        return self.bank[(max(self.editing - 1, 0), *place)]


def softmax_attention(q, k, v, heads):
    """[tokens, channels] against [keys, channels]."""
    rows = [(q_ @ k_.T / math.sqrt(q_.shape[-1])).softmax(-1) @ v_
            for q_, k_, v_ in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True)]
    return torch.cat(rows, -1)
