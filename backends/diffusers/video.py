"""LoRA-Edit's training on a diffusers ``WanTransformer3DModel``: ``backends.protocol.VideoBackend`` without a host."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psutil
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...diffusion.flow import FlowSchedule
from ...diffusion.samplers import named_sampler
from ...methods.lora import check_shapes, factors, same_lora
from ...methods.lora_edit.choices import WAN
from ...methods.lora_edit.memory import NetworkSize, diffusers_wan_kept, diffusers_wan_moments
from ...toyworld.models.wan import to_wan
from .. import fingerprint
from ..offload import offloaded
from .flow_edit import FlowEditGuider
from .local import Local

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel
    from torch import Tensor

    from ...methods.flow_edit import FlowEdit, FlowEditPrompts
    from ...methods.lora_edit.memory import MemoryPlan
    from ...methods.lora_edit.samples import Sample
    from ..protocol import Progress

#: noise, mask, condition
CHANNELS = 36
#: Frames to a latent frame behind the first.
STRIDE = 4
#: The network's timestep of a sigma.
TIMESTEPS = 1000


@dataclass(frozen=True)
class DiffusersVideoModel:
    """A Wan image-to-video transformer with a LoRA. Clones share the network, which is patched only for the time of
    one ``with``.

    Args:
        transformer: predicts eps - x_0 from 36 channels.
        mean, std: of raw latents, by channel.
        loras: see ``methods.lora``; they add up.
        shift: of the noise levels in sampling.
    """

    transformer: WanTransformer3DModel
    mean: tuple[float, ...]
    std: tuple[float, ...]
    loras: tuple[Mapping[str, Tensor], ...] = ()
    shift: float = 3.0


def layers_of(model: DiffusersVideoModel) -> dict[str, nn.Linear]:
    """Every Linear of the blocks by Wan's own name, which LoRA files use."""
    return {
        next(iter(to_wan({f"{name}.weight": None}))).removesuffix(".weight"): layer
        for name, layer in model.transformer.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith("blocks.")
    }


def network_input(model: DiffusersVideoModel, noisy: Tensor, extra: Mapping[str, Any]) -> Tensor:
    """[1, 36, T', h, w]: the noise, M (1 keeps: the inverse of ``concat_mask``), the condition's latents."""
    keep = 1 - extra["concat_mask"].to(noisy)
    return torch.cat([noisy, keep, scaled(model, extra["concat_latent_image"]).to(noisy)], 1)


def scaled(model: DiffusersVideoModel, samples: Tensor) -> Tensor:
    """Raw LATENT samples in the scale that the transformer sees."""
    mean, std = (torch.tensor(values).to(samples)[:, None, None, None] for values in (model.mean, model.std))
    return (samples - mean) / std


def velocity(model: DiffusersVideoModel, noisy: Tensor, sigma: Tensor, conditioning: list) -> Tensor:
    """v_theta under one CONDITIONING, whose row serves all rows of ``noisy``."""
    ((text, extra),) = conditioning
    x = network_input(model, noisy, extra)
    timestep = (TIMESTEPS * sigma).to(x).reshape(1).expand(len(x))
    seen = getattr(extra.get("clip_vision_output"), "penultimate_hidden_states", None)
    image = None if seen is None else seen.to(x).expand(len(x), -1, -1)
    return model.transformer(x, timestep, text.to(x).expand(len(x), -1, -1), image, return_dict=False)[0]


@contextmanager
def forwards(changed: Mapping[nn.Module, Callable]) -> Iterator[None]:
    """Other forwards of modules inside the ``with``."""
    for module, forward in changed.items():
        module.forward = forward
    try:
        yield
    finally:
        for module in changed:
            del module.forward


@contextmanager
def with_loras(model: DiffusersVideoModel, loras: Sequence[Mapping[str, Tensor]]) -> Iterator[None]:
    """The network with LoRAs beside its layers, W x + B A x each, inside the ``with``."""
    layers = layers_of(model)
    beside: dict[nn.Module, list] = {}
    for lora in loras:
        for name, pair in factors(lora).items():
            beside.setdefault(layers[name], []).append(pair)

    def forward_of(layer: nn.Linear, pairs: list) -> Callable:
        before = layer.forward

        def forward(x: Tensor) -> Tensor:
            y = before(x)
            for down, up in pairs:
                y = y + F.linear(F.linear(x, down.to(x)), up.to(x))
            return y

        return forward

    with forwards({layer: forward_of(layer, pairs) for layer, pairs in beside.items()}):
        yield


@dataclass(frozen=True)
class DiffusersVideoTraining:
    """See ``backends.protocol.VideoTrainingView``."""

    model: DiffusersVideoModel
    parameters: Mapping[str, Tensor]
    samples: Sequence[Sample]

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, sample: int) -> Tensor:
        return velocity(self.model, noisy, sigma, self.samples[sample].conditioning)


@contextmanager
def open_for_training(
    model: DiffusersVideoModel, samples: Sequence[Sample], lora: Mapping[str, Tensor], offloaded_blocks: int = 0,
    whole_blocks: int = 0,
) -> Iterator[DiffusersVideoTraining]:
    """``VideoBackend.video_training``; the network's blocks but for the last ``whole_blocks`` are computed again in
    backward, and the inputs of the first of them may wait in the main memory."""
    network = model.transformer
    device = network.device
    trained = {key: start.detach().to(device, copy=True).requires_grad_() for key, start in lora.items()}
    asking = [p for p in network.parameters() if p.requires_grad]

    def recomputed(block: nn.Module, elsewhere: bool) -> Callable:
        before = block.forward

        def forward(tokens: Tensor, *args: Any) -> Tensor:
            with offloaded(tokens) if elsewhere else nullcontext():
                return checkpoint(before, tokens, *args, use_reentrant=False, preserve_rng_state=False)

        return forward

    with ExitStack() as stack:
        for parameter in asking:
            parameter.requires_grad_(False)
            stack.callback(parameter.requires_grad_, True)
        stack.enter_context(with_loras(model, [*model.loras, trained]))
        stack.enter_context(forwards({
            block: recomputed(block, number < offloaded_blocks)
            for number, block in enumerate(network.blocks[: len(network.blocks) - whole_blocks])}))
        yield DiffusersVideoTraining(model, trained, samples)


class DiffusersVideoBackend(Local):
    """``backends.protocol.VideoBackend``; MODEL values are ``DiffusersVideoModel``."""

    def video_family(self, model: DiffusersVideoModel) -> str:
        channels = model.transformer.config.in_channels
        if channels != CHANNELS:
            raise TypeError(f"model: a Wan model with {channels} input channels has no mask of its own; load an "
                            f"image-to-video one ({CHANNELS} channels).")
        return WAN

    def video_layers(self, model: DiffusersVideoModel) -> dict[str, tuple[int, int]]:
        return {name: (layer.out_features, layer.in_features) for name, layer in layers_of(model).items()}

    def video_size(self, model: DiffusersVideoModel, sample: Sample, precision: str,
                   lora: Mapping[str, Tensor]) -> NetworkSize:  # fmt: skip
        inner_trained = any(".ffn." in key for key in lora)
        network, config = model.transformer, model.transformer.config
        stored = [sum(p.numel() * p.element_size() for p in block.parameters()) for block in network.blocks]
        weight = network.blocks[0].attn1.to_q.weight
        return NetworkSize(
            config.num_attention_heads * config.attention_head_dim, config.ffn_dim,
            config.attention_head_dim, len(stored),
            diffusers_wan_moments(len(stored), weight.element_size(), inner_trained),
            weight.element_size(), sum(p.numel() * p.element_size() for p in network.parameters()), max(stored),
            max(layer.weight.numel() for layer in layers_of(model).values()),
            context_tokens=sample.conditioning[0][0].shape[1], patch=tuple(config.patch_size),
            stored_itemsize=weight.element_size(), conditioning=sample.conditioning[0][0].nbytes,
            kept=diffusers_wan_kept(weight.element_size(), inner_trained), alike=len(stored),
        )  # fmt: skip

    def video_room(self, model: DiffusersVideoModel) -> tuple[int, str]:
        device = model.transformer.device
        if device.type == "cuda":
            return torch.cuda.mem_get_info(device)[0], torch.cuda.get_device_name(device)
        return psutil.virtual_memory().available, device.type

    def video_training(self, model: DiffusersVideoModel, samples: Sequence[Sample], lora: Mapping[str, Tensor],
                       planned: MemoryPlan, precision: str):
        # Nothing is streamed here: the network computes where and in what it lies.
        return open_for_training(model, samples, lora, planned.offloaded, planned.whole)

    def has_video_lora(self, model: DiffusersVideoModel, lora: Mapping[str, Tensor]) -> bool:
        wanted = factors(lora)
        return any(same_lora(pair, wanted[name]) for own in model.loras for name, pair in factors(own).items()
                   if name in wanted)

    def add_video_lora(self, model: DiffusersVideoModel, lora: Mapping[str, Tensor]) -> DiffusersVideoModel:
        check_shapes(lora, self.video_layers(model))
        device = model.transformer.device
        return replace(model, loras=(*model.loras, {key: value.detach().to(device) for key, value in lora.items()}))

    def fingerprint(self, model: DiffusersVideoModel) -> str:
        base = fingerprint.of_tensors(model.transformer.state_dict().values())
        added = [fingerprint.of_tensors([lora[key]]) for lora in model.loras for key in sorted(lora)]
        return hashlib.sha256(" ".join([base, *added]).encode()).hexdigest() if added else base

    def to_model_space(self, model: DiffusersVideoModel, samples: Tensor) -> Tensor:
        return scaled(model, samples)

    def from_model_space(self, model: DiffusersVideoModel, samples: Tensor) -> Tensor:
        """The inverse of ``to_model_space``."""
        mean, std = (torch.tensor(values).to(samples)[:, None, None, None] for values in (model.mean, model.std))
        return samples * std + mean

    def schedule(self, model: DiffusersVideoModel) -> FlowSchedule:
        """The noise levels of sampling."""
        return FlowSchedule(model.shift)

    def sample(self, model: DiffusersVideoModel, positive: list, negative: list | None, guidance: float,
               samples: Tensor, sigmas: Tensor, progress: Progress, *, sampler: str | Callable = "euler",
               seed: int = 0, middle: None = None, middle_guidance: float = 1.0) -> Tensor:
        """``Backend.sample`` on clips [1, 16, T', h, w], x at ``sigmas[0]`` = 1 in LATENT scale."""
        def denoise(x: Tensor, sigma: Tensor, **_: Any) -> Tensor:
            level = sigma.reshape(-1)[0]
            guided = velocity(model, x, level, positive)
            if negative is not None and guidance != 1:
                free = velocity(model, x, level, negative)
                guided = free + guidance * (guided - free)
            return x - level * guided

        start = self.to_model_space(model, samples).to(model.transformer.device)
        with torch.no_grad(), with_loras(model, model.loras):
            x = named_sampler(sampler)(denoise, start, sigmas, extra_args={"seed": seed}, disable=True,
                                       callback=lambda state: progress.update(state["i"] + 1))
        return self.from_model_space(model, x.cpu())

    def check_flow(self, model: DiffusersVideoModel, what: str) -> None:
        if what != "FlowEdit":
            raise TypeError(f"model: {what} samples video models in ComfyUI only; run the graph with --host comfy.")

    def invert_flow(self, model: DiffusersVideoModel, conditioning: Any, samples: Tensor, sigmas: Tensor,
                    progress: Progress) -> list[Tensor]:
        raise TypeError("model: a flow is inverted in ComfyUI only; run the graph with --host comfy.")

    def flow_edit(self, model: DiffusersVideoModel, prompts: FlowEditPrompts, settings: FlowEdit) -> tuple[Any, Any]:
        device = model.transformer.device
        return FlowEditGuider(
            prompts, settings, partial(velocity, model), lambda samples: self.to_model_space(model, samples).to(device),
            partial(self.from_model_space, model), lambda: with_loras(model, model.loras), self.progress, STRIDE,
        ), "euler"  # the guider brings its own loop

