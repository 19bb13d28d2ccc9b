"""Stand-ins for the host's core nodes around sampling: noise, guidance, sigmas, the sampling itself.

Same ids, inputs and meaning, and from the same seed the same noise as in the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from .. import backends
from ..diffusion.flow import FlowSchedule
from ..diffusion.samplers import SAMPLERS
from ..diffusion.schedule import SCHEDULERS, named_sigmas
from ..methods.finite import check_finite
from .host_api import ComfyNode, NodeOutput, schema

SEED = ("INT", {"min": 0, "max": 2**64 - 1})
SCALE = ("FLOAT", {"min": 0.0, "max": 100.0})


@dataclass(frozen=True)
class Noise:
    """NOISE: standard normal from a seed, or none at all."""

    seed: int = 0
    silent: bool = False

    def for_latent(self, latent: dict[str, Any]) -> torch.Tensor:
        """Noise shaped like the LATENT's samples; frames of one ``batch_index`` share theirs."""
        shape = latent["samples"].shape
        if self.silent:
            return torch.zeros(shape)
        generator = torch.Generator().manual_seed(self.seed)
        index = latent.get("batch_index")
        if index is None:
            return torch.randn(shape, generator=generator)
        drawn = [torch.randn((1, *shape[1:]), generator=generator) for _ in range(max(index) + 1)]
        return torch.cat([drawn[i] for i in index])


@dataclass(frozen=True)
class Guider:
    """GUIDER: a MODEL under one condition, two (classifier-free guidance) or three (the dual guidance)."""

    model: Any
    positive: Any
    negative: Any = None
    cfg: float = 1.0
    middle: Any = None
    middle_cfg: float = 1.0

    def sample(self, noise: Noise, sampler: Any, sigmas: torch.Tensor, latent: dict[str, Any]) -> dict[str, Any]:
        """The LATENT denoised from ``sigmas[0]``: x = x_0 + sigma eps, at the schedule's largest sigma
        x_0 + sqrt(1 + sigma^2) eps.

        Raises:
            ValueError: the LATENT holds NaN, infinite values, or a noise mask.
        """
        backend, samples = backends.of(self.model), latent["samples"]
        check_finite("latent_image", samples)
        if "noise_mask" in latent:
            raise ValueError("latent_image: it holds a noise mask, which only ComfyUI samples with; use --host comfy.")
        if len(sigmas) < 2:
            return latent
        # Source Path's noise is drawn by itself.
        drawn = noise.for_latent(latent) if isinstance(noise, Noise) else noise.generate_noise(latent)
        schedule = backend.schedule(self.model)
        spread = backend.from_model_space(self.model, schedule.starting_noise(drawn, float(sigmas[0])))
        # A flow's sigma of 1 leaves nothing of a latent.
        samples = spread if isinstance(schedule, FlowSchedule) else samples + spread
        progress = backend.progress(len(sigmas) - 1, "sampling")
        done = backend.sample(
            self.model, self.positive, self.negative, self.cfg, samples, sigmas, progress, sampler=sampler,
            seed=noise.seed, middle=self.middle, middle_guidance=self.middle_cfg)
        return {**latent, "samples": done}


def sigmas_of(model: Any, scheduler: str, steps: int, denoise: float) -> torch.Tensor:
    """The host's sigmas of a MODEL; see ``diffusion.schedule.named_sigmas``."""
    return named_sigmas(backends.of(model).schedule(model), scheduler, steps, denoise)


class InstructPixToPixConditioning(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        inputs = {"positive": "CONDITIONING", "negative": "CONDITIONING", "vae": "VAE", "pixels": "IMAGE"}
        return schema("InstructPixToPixConditioning", inputs, "CONDITIONING CONDITIONING LATENT")

    @classmethod
    def execute(cls, positive, negative, vae, pixels):
        image = vae.encode(pixels)  # crops to multiples of 8 as the host's node does
        both = [[[text, {**values, "concat_latent_image": image}] for text, values in c] for c in (positive, negative)]
        return NodeOutput(*both, {"samples": torch.zeros_like(image)})


class LatentBatchSeedBehavior(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        inputs = {"samples": "LATENT", "seed_behavior": ("COMBO", {"options": ("random", "fixed")})}
        return schema("LatentBatchSeedBehavior", inputs, "LATENT")

    @classmethod
    def execute(cls, samples, seed_behavior):
        out = {name: value for name, value in samples.items() if name != "batch_index"}
        if seed_behavior == "fixed":
            out["batch_index"] = [samples.get("batch_index", [0])[0]] * len(samples["samples"])
        return NodeOutput(out)


class BasicGuider(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        return schema("BasicGuider", {"model": "MODEL", "conditioning": "CONDITIONING"}, "GUIDER")

    @classmethod
    def execute(cls, model, conditioning):
        return NodeOutput(Guider(model, conditioning))


class CFGGuider(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        inputs = {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "cfg": SCALE}
        return schema("CFGGuider", inputs, "GUIDER")

    @classmethod
    def execute(cls, model, positive, negative, cfg):
        return NodeOutput(Guider(model, positive, negative, cfg))


class DualCFGGuider(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        inputs = {
            "model": "MODEL", "cond1": "CONDITIONING", "cond2": "CONDITIONING", "negative": "CONDITIONING",
            "cfg_conds": SCALE, "cfg_cond2_negative": SCALE, "style": ("COMBO", {"options": ("regular", "nested")}),
        }  # fmt: skip
        return schema("DualCFGGuider", inputs, "GUIDER")

    @classmethod
    def execute(cls, model, cond1, cond2, negative, cfg_conds, cfg_cond2_negative, style):
        # nested: D_neg + c2 (D_2 + c1 (D_1 - D_2) - D_neg), which is the regular one with c1 c2 in c1's place
        scale = cfg_conds * cfg_cond2_negative if style == "nested" else cfg_conds
        return NodeOutput(Guider(model, cond1, negative, scale, cond2, cfg_cond2_negative))


class RandomNoise(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RandomNoise", {"noise_seed": SEED}, "NOISE")

    @classmethod
    def execute(cls, noise_seed):
        return NodeOutput(Noise(noise_seed))


class DisableNoise(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("DisableNoise", {}, "NOISE")

    @classmethod
    def execute(cls):
        return NodeOutput(Noise(silent=True))


class BasicScheduler(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {
            "model": "MODEL", "scheduler": ("COMBO", {"options": SCHEDULERS}),
            "steps": ("INT", {"min": 1, "max": 10000}), "denoise": ("FLOAT", {"min": 0.0, "max": 1.0}),
        }  # fmt: skip
        return schema("BasicScheduler", inputs, "SIGMAS")

    @classmethod
    def execute(cls, model, scheduler, steps, denoise):
        return NodeOutput(sigmas_of(model, scheduler, steps, denoise))


class KSamplerSelect(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("KSamplerSelect", {"sampler_name": ("COMBO", {"options": tuple(SAMPLERS)})}, "SAMPLER")

    @classmethod
    def execute(cls, sampler_name):
        return NodeOutput(sampler_name)


class SamplerCustom(ComfyNode):
    frame_by_frame = True
    draws_noise = True

    @classmethod
    def define_schema(cls):
        inputs = {
            "model": "MODEL", "add_noise": "BOOLEAN", "noise_seed": SEED, "cfg": SCALE, "positive": "CONDITIONING",
            "negative": "CONDITIONING", "sampler": "SAMPLER", "sigmas": "SIGMAS", "latent_image": "LATENT",
        }  # fmt: skip
        return schema("SamplerCustom", inputs, "LATENT LATENT")

    @classmethod
    def execute(cls, model, add_noise, noise_seed, cfg, positive, negative, sampler, sigmas, latent_image):
        noise, guider = Noise(noise_seed, silent=not add_noise), Guider(model, positive, negative, cfg)
        return SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent_image)


class SamplerCustomAdvanced(ComfyNode):
    frame_by_frame = True
    draws_noise = True

    @classmethod
    def define_schema(cls):
        inputs = {
            "noise": "NOISE", "guider": "GUIDER", "sampler": "SAMPLER", "sigmas": "SIGMAS", "latent_image": "LATENT",
        }  # fmt: skip
        return schema("SamplerCustomAdvanced", inputs, "LATENT LATENT")

    @classmethod
    def execute(cls, noise, guider, sampler, sigmas, latent_image):
        # The second output, the last denoised x, is the first one where the sigmas end at 0.
        out = guider.sample(noise, sampler, sigmas, latent_image)
        return NodeOutput(out, out)


NODES = {node.__name__: node for node in (
    InstructPixToPixConditioning, LatentBatchSeedBehavior, BasicGuider, CFGGuider, DualCFGGuider, RandomNoise,
    DisableNoise, BasicScheduler, KSamplerSelect, SamplerCustom, SamplerCustomAdvanced)}
