"""Toy models with random weights in the host and in diffusers, and what tests do with them."""

from __future__ import annotations

import comfy.controlnet
import comfy.samplers
import torch
from shared import shared
from steadyedit.backends.comfy_native import ComfyBackend, toy
from steadyedit.methods.registry import build
from steadyedit.toyworld import models
from steadyedit.toyworld.models import control_file

BACKEND = ComfyBackend()
FRAMES, SIDE, WIDTH = 3, 8, models.UNET_CONFIG["cross_attention_dim"]
METHODS = {"stam": {}, "ffam": {"ratio": 2}, "sparse-causal": {}, "temporal-attention": {}, "full-attention": {},
           "simda": {}}  # fmt: skip
#: what works only while sampling
SAMPLING = {"gather-swap": {"group": 2}, "rave": {"grid": 2}}


@shared
def diffusers_unet():
    """Random, but the same in every test."""
    torch.manual_seed(0)
    return models.build_unet().eval().requires_grad_(False)


@shared
def diffusers_controlnet():
    """Random, but the same in every test; its outputs are not silent."""
    torch.manual_seed(6)
    network = models.build_controlnet().eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.startswith(("controlnet_down_blocks", "controlnet_mid_block")):
            torch.nn.init.normal_(parameter, std=0.1)
    return network


def controlnet():
    """The same as the host's CONTROL_NET, by its own loader."""
    return comfy.controlnet.load_controlnet_state_dict(control_file.to_stock(diffusers_controlnet().state_dict()))


def under(control_net, hints, conditioning, strength: float = 1.0):
    """CONDITIONING behind the host's ControlNetApplyAdvanced."""
    import nodes

    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    return apply(conditioning, conditioning, control_net, hints, strength, 0.0, 1.0)[0]


@shared
def _shared():
    return toy.unet_from(diffusers_unet().state_dict())


def model():
    """A clone of one shared MODEL: what a test leaves behind, the next one would meet."""
    return _shared().clone()


def moved(attachment, scale: float = 0.1):
    """The attachment with weights away from their start, so that it does something."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in (p for tree in attachment.trees for p in tree.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return attachment


def attached(patcher, *methods: str):
    """A MODEL with methods that do something."""
    settings = {**METHODS, **SAMPLING}
    for method in methods:
        patcher = BACKEND.attach(patcher, moved(build(method, BACKEND.sites(patcher), settings[method])))
    return patcher


def text(seed: int = 1, prompts: int = 1):
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(prompts, 77, WIDTH, generator=generator), {"pooled_output": None}]]


def clip(frames: int = FRAMES, seed: int = 5, side: int = SIDE):
    return torch.randn(frames, 4, side, side, generator=torch.Generator().manual_seed(seed))


class Quiet:
    """A progress bar that shows nothing, and cancels after so many updates."""

    def __init__(self, cancel_after: int | None = None, error: type[BaseException] = KeyboardInterrupt):
        self.left, self.error, self.values = cancel_after, error, []

    def update(self, value, preview=None, **numbers):
        self.values.append(value)
        if self.left is not None and value >= self.left:
            raise self.error


def sample(patcher, guidance: float = 7.5, steps: int = 2, samples=None, positive=None, negative=None):
    """A few DDIM steps through the host's CFGGuider."""
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(steps)
    samples = clip() if samples is None else samples
    return BACKEND.sample(patcher, positive or text(1), negative or text(2), guidance, samples, sigmas, Quiet())


def weights(patcher) -> dict:
    """A copy of the torch model's weights, without the patches that an earlier test's clone may have left loaded."""
    patcher.unpatch_model()
    return {key: value.clone() for key, value in patcher.model.state_dict().items()}


def traces(patcher) -> list:
    """Whatever attaching could leave on the torch model: what it sets on modules, and hooks."""
    return [
        (name, [id(module.__dict__.get(key)) for key in ("forward", "comfy_cast_weights")],
         len(module._forward_hooks), len(module._forward_pre_hooks))
        for name, module in patcher.model.named_modules()
    ]  # fmt: skip


def assert_untouched(patcher, before_weights: dict, before_traces: list) -> None:
    after = patcher.model.state_dict()
    assert after.keys() == before_weights.keys()
    assert all(torch.equal(after[key], before_weights[key]) for key in after)
    assert traces(patcher) == before_traces


def assert_close(first, second, tolerance: float = 1e-4) -> None:
    """Equal to rounding, measured against the largest value: guidance and high noise levels magnify both."""
    assert (first - second).abs().max() < tolerance * second.abs().max()


def separate_calls(patcher):
    """A clone on which the host computes every condition in a call of its own."""
    clone = patcher.clone()

    def one_by_one(arguments):
        conditions = arguments["conds"]
        out = []
        for condition in conditions:
            (result,) = comfy.samplers.calc_cond_batch(
                arguments["model"], [condition], arguments["input"], arguments["sigma"], arguments["model_options"])
            out.append(result)
        return out

    clone.set_model_sampler_calc_cond_batch_function(one_by_one)
    return clone
