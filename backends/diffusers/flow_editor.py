"""The toy world's flow-matching editor without a host: gather-swap, adaptation and sampling on diffusers' FLUX.

A picture that is edited is read as reference latents. Blocks and LoRA layers have FLUX's own names, as in ComfyUI, so
that a LoRA that is trained here is the one that is trained there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from ...diffusion.flow import FlowSchedule
from ...diffusion.inversion import flow_inversion
from ...diffusion.samplers import named_sampler
from ...methods.attachment import BlockSite
from ...methods.lora import check_shapes
from ...methods.reference_rows import sample_with_rows
from ...methods.sampling_plan import Replacement, RunFacts, in_chunks, plan_of
from ...methods.via.editor_clip import REFERENCES, sides_for
from ...methods.via.joint_attention import TokenLayout
from ...toyworld import models
from ...toyworld.models import flow_editor
from .. import fingerprint
from ..toy_text import check_length
from .blend import BlendedSampler
from .encoders import Autoencoder, TextEncoder, length_of
from .joint_attention import layers_of, replaced_attention, with_loras
from .local import Local

if TYPE_CHECKING:

    from diffusers import FluxTransformer2DModel
    from torch import Tensor

    from ...methods.attachment import Attachment
    from ...methods.sampling_plan import PlannedRun
    from ...methods.via.blend import BoundaryBlend
    from ..protocol import Progress

#: Rows in one call of the network.
AT_ONCE = 16


@dataclass(frozen=True)
class FlowEditorModel:
    """MODEL: a narrow FLUX with attachments and LoRAs. Clones share the network, which is patched only for the time of
    one call.

    Args:
        transformer: predicts eps - x_0 from tokens of the noisy picture and of its references.
        loras: see ``methods.lora``; they add up.
        latent_scale: LATENT samples times this is what the network sees.
    """

    transformer: FluxTransformer2DModel
    attachments: tuple[Attachment, ...] = ()
    loras: tuple[Mapping[str, Tensor], ...] = ()
    latent_scale: float = models.VAE_CONFIG["scaling_factor"]


@dataclass
class FlowDenoiser:
    """D(x, sigma) = x - sigma v(x, sigma), with guidance D = D_neg + cfg (D_pos - D_neg).

    Args:
        model: with its attachments.
        conditions: by name, "positive" first; CONDITIONING of one entry, a row for all frames or one a frame.
        cfg: guidance scale, of two conditions.
        frames: of the clip.
        noise: x at sigma 1 in the model's scale, of every frame.
    """

    model: FlowEditorModel
    conditions: Mapping[str, Any]
    cfg: float
    frames: int
    noise: Tensor | None = None
    planned: Any = field(init=False)

    def __post_init__(self) -> None:
        self.planned = plan_of(self.model.attachments)

    def start(self, sigmas: Tensor) -> PlannedRun | None:
        """Begin a run; None where nothing attached has a plan."""
        if self.planned is None:
            return None
        plan, sites = self.planned
        return plan.begin_run(RunFacts(self.frames, sigmas.detach().double().cpu()), sites)

    def __call__(self, x: Tensor, sigma: Tensor, *, run: PlannedRun | None = None, **extra_args: Any) -> Tensor:
        """Denoised x; x: [rows, channels, h, w], sigma: [rows], one value."""
        calls = FlowCalls(self, float(sigma[0]))
        return in_chunks(calls, x, range(len(x))) if run is None else run(x, float(sigma[0]), calls)

    def call(self, x: Tensor, sigma: float, ids: Sequence[int], replaced: Replacement | None) -> Tensor:
        """Denoised rows from one call of the network."""
        rows = [rows_of(conditioning, ids, self.frames, name) for name, conditioning in self.conditions.items()]
        n, (text, pooled, source) = len(rows), (torch.cat(parts) for parts in zip(*rows, strict=True))
        z, references = x.repeat(n, 1, 1, 1), (source * self.model.latent_scale).to(x)
        height, width = (side // flow_editor.PATCH for side in x.shape[-2:])
        tokens = TokenLayout(text.shape[1], height * width, height * width)
        network = self.model.transformer
        with with_loras(network, self.model.loras), \
                replaced_attention(network, replaced, tokens, tuple(self.conditions)):
            v = flow_editor.velocity(network, z, references, torch.full((len(z),), sigma), text, pooled)
        denoised = (z - sigma * v).chunk(n)
        return denoised[0] if n == 1 else denoised[1] + self.cfg * (denoised[0] - denoised[1])


@dataclass
class FlowCalls:
    """``methods.sampling_plan.Calls`` for one evaluation."""

    denoise: FlowDenoiser
    sigma: float
    out_of_memory: tuple[type[BaseException], ...] = (torch.OutOfMemoryError,)
    positive: str = "positive"

    def __call__(self, x: Tensor, ids: Sequence[int], *, replaced: Replacement | None = None, **how: Any) -> Tensor:
        return self.denoise.call(x, self.sigma, ids, replaced)

    def rows_at_once(self, x: Tensor, grid: int, wanted: int) -> int:
        return wanted or AT_ONCE

    def smaller(self, rows: int, divisible: bool) -> int | None:
        return rows // 2 if divisible and rows > 1 else None

    def to_model_space(self, samples: Tensor) -> Tensor:
        return samples * self.denoise.model.latent_scale

    def noised(self, samples: Tensor, ids: Sequence[int]) -> Tensor:
        assert self.denoise.noise is not None
        return (1 - self.sigma) * self.to_model_space(samples) + self.sigma * self.denoise.noise[list(ids)]


def rows_of(conditioning: Any, ids: Sequence[int], frames: int, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Text, pooled text and reference of some frames.

    Raises:
        ValueError: several conditions, no reference or several, or those of another clip.
    """
    if len(conditioning) != 1:
        raise ValueError(f"{name}: holds {len(conditioning)} conditions, but the toy editor takes one here.")
    ((text, extra),) = conditioning
    references = extra.get(REFERENCES) or []
    if len(references) != 1:
        raise ValueError(f"{name}: holds {len(references)} reference latents, but the toy editor reads one, the "
                         "picture that it edits; connect Editor Conditioning of a Clip without a second picture.")
    if len(references[0]) not in (1, frames):
        raise ValueError(f"{name}: holds references of {len(references[0])} frames, but the clip has {frames}; make "
                         "both from the same frames.")

    def few(value: Tensor) -> Tensor:
        return value.expand(len(ids), *value.shape[1:]) if len(value) == 1 else value[list(ids)]

    return few(text), few(extra["pooled_output"]), few(references[0])


class FlowTextEncoder(TextEncoder):
    """CLIP of the flow editor: its first tokens, and the state at the end of the text as the pooled one."""

    def tokenize(self, text: str) -> Tensor:
        """ids [1, 77]. Raises ValueError (one sentence) where the editor would not read all of the text."""
        ids = super().tokenize(text)
        check_length(length_of(ids[0]), flow_editor.TOKENS)
        return ids

    @torch.no_grad()
    def encode_from_tokens_scheduled(self, tokens: Tensor) -> list[list[Any]]:
        """CONDITIONING: ``[[tensor [1, TOKENS, C], {"pooled_output": [1, C]}]]``."""
        text, pooled = flow_editor.embed_text(self.encoder, tokens)
        return [[text, {"pooled_output": pooled}]]


@dataclass(frozen=True)
class ToyPictureEditor:
    """``backends.protocol.PictureEditor`` of the toy editor."""

    clip: FlowTextEncoder
    vae: Autoencoder
    reads_pictures: bool = False
    one_picture: str = "the Toy Flow Editor"

    def prompt(self, text: str, pictures: Sequence[Tensor]) -> list[list[Any]]:
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def at_trained_size(self, picture: Tensor) -> Tensor:
        width, height = sides_for(picture, 128 * 128, 16)
        return F.interpolate(picture.movedim(-1, 1), (height, width), mode="area").movedim(1, -1)

    def latent(self, picture: Tensor) -> Tensor:
        return self.vae.encode(picture[..., :3])


@dataclass(frozen=True)
class FlowEditorTraining:
    """See ``backends.protocol.PictureTrainingView``."""

    model: FlowEditorModel
    parameters: Mapping[str, Tensor]

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        text, pooled, source = rows_of(conditioning, range(len(noisy)), len(noisy), "conditioning")
        return flow_editor.velocity(self.model.transformer, noisy, source.to(noisy) * self.model.latent_scale,
                                    sigma.reshape(-1).expand(len(noisy)), text, pooled)


class FlowEditorBackend(Local):
    """The parts of ``backends.protocol.Backend`` that VIA needs; MODEL values are ``FlowEditorModel``."""

    def joint_sites(self, model: FlowEditorModel) -> list[BlockSite]:
        network = model.transformer
        width, heads = network.inner_dim, network.config.num_attention_heads
        counts = {"double": len(network.transformer_blocks), "single": len(network.single_transformer_blocks)}
        return [BlockSite(f"{kind}_blocks.{i}", width, heads) for kind, count in counts.items() for i in range(count)]

    sites = joint_sites

    def attachments(self, model: FlowEditorModel) -> tuple[Attachment, ...]:
        return model.attachments

    def attach(self, model: FlowEditorModel, attachment: Attachment) -> FlowEditorModel:
        kept = [a for a in model.attachments if a.method != attachment.method]
        return replace(model, attachments=(*kept, attachment))

    def projections(self, model: FlowEditorModel) -> dict[str, tuple[int, int]]:
        return {name: (sum(part.out_features for part in parts), parts[0].in_features)
                for name, parts in layers_of(model.transformer).items()}

    def add_lora(self, model: FlowEditorModel, lora: Mapping[str, Tensor]) -> FlowEditorModel:
        check_shapes(lora, self.projections(model))
        return replace(model, loras=(*model.loras, {key: value.detach() for key, value in lora.items()}))

    def fingerprint(self, model: FlowEditorModel) -> str:
        parts = [model.transformer.state_dict().values(), *(lora.values() for lora in model.loras)]
        return hashlib.sha256(" ".join(map(fingerprint.of_tensors, parts)).encode()).hexdigest()

    def to_model_space(self, model: FlowEditorModel, samples: Tensor) -> Tensor:
        return samples * model.latent_scale

    def from_model_space(self, model: FlowEditorModel, samples: Tensor) -> Tensor:
        return samples / model.latent_scale

    def picture_editor(self, clip: FlowTextEncoder, vae: Autoencoder) -> ToyPictureEditor:
        return ToyPictureEditor(clip, vae)

    @contextmanager
    def picture_training(self, model: FlowEditorModel, lora: Mapping[str, Tensor]) -> Iterator[FlowEditorTraining]:
        network = model.transformer
        trained = {key: start.detach().clone().requires_grad_() for key, start in lora.items()}
        with ExitStack() as stack:
            for parameter in [p for p in network.parameters() if p.requires_grad]:
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
            stack.enter_context(torch.enable_grad())
            stack.enter_context(with_loras(network, [*model.loras, trained]))
            yield FlowEditorTraining(model, trained)

    def schedule(self, model: FlowEditorModel) -> FlowSchedule:
        return FlowSchedule(flow_editor.SHIFT)

    def sample(self, model: FlowEditorModel, positive: Any, negative: Any, guidance: float, samples: Tensor,
               sigmas: Tensor, progress: Progress, *, sampler: str | BlendedSampler = "euler", seed: int = 0,
               middle: None = None, middle_guidance: float = 1.0) -> Tensor:
        """``Backend.sample``, from x at ``sigmas[0]`` = 1, which is noise."""
        noise = self.to_model_space(model, samples)
        conditions = {"positive": positive}
        if negative is not None and guidance != 1:
            conditions["negative"] = negative
        denoise = FlowDenoiser(model, conditions, guidance, len(noise), noise)
        rows = () if denoise.planned is None else denoise.planned[0].reference_frames(len(noise))
        eps = torch.cat([noise, noise[list(rows)]])
        if isinstance(sampler, BlendedSampler):
            function = sampler.bound(partial(self.to_model_space, model),
                                     lambda sigma, x: (1 - sigma) * x + sigma * eps)  # fmt: skip
        else:
            function = named_sampler(sampler)
        with torch.no_grad():
            x = sample_with_rows(rows, function, denoise, noise, sigmas, {"run": denoise.start(sigmas), "seed": seed},
                                 lambda state: progress.update(state["i"] + 1))
        out = self.from_model_space(model, x)
        return sampler.blend.restore(out, sigmas) if isinstance(sampler, BlendedSampler) else out

    def check_flow(self, model: FlowEditorModel, what: str) -> None:
        if what == "FlowEdit":
            raise TypeError("model: FlowEdit on the toy flow editor runs in ComfyUI only; use --host comfy.")

    def blend_sampler(self, sampler: str, blend: BoundaryBlend) -> BlendedSampler:
        return BlendedSampler(sampler, blend)

    def invert_flow(self, model: FlowEditorModel, conditioning: Any, samples: Tensor, sigmas: Tensor,
                    progress: Progress) -> list[Tensor]:
        denoise = FlowDenoiser(replace(model, attachments=()), {"positive": conditioning}, 1.0, len(samples))
        with torch.no_grad():
            path = flow_inversion(denoise, self.to_model_space(model, samples), sigmas, {}, disable=True,
                                  callback=lambda state: progress.update(state["i"] + 1))
        return [samples, *(self.from_model_space(model, x) for x in path[1:])]


def load_toy_flow_editor() -> tuple[FlowEditorModel, FlowTextEncoder, Autoencoder]:
    """MODEL, CLIP and VAE, float32.

    Raises:
        ValueError: a weights file is not the one that its sidecar describes.
        FileNotFoundError: a weights file is missing.
    """
    return (FlowEditorModel(models.load("flow_editor")),
            FlowTextEncoder(models.load_editor_text_encoder(), models.tokenize), Autoencoder(models.load_vae()))
