"""``backends.protocol.Backend`` for a diffusers U-Net."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ...diffusion.inversion import ddim_inversion
from ...methods.attachment import check_rivals
from ...methods.lora import PROJECTIONS, check_shapes, differences
from ...methods.prompt_to_prompt import TextTokens
from .. import fingerprint
from . import guiding
from .blend import BlendedSampler
from .control import ControlNet
from .denoiser import Denoiser
from .encoders import Autoencoder, ImageEncoder, TextEncoder
from .local import Local
from .model import DiffusersModel
from .norms import located_norms
from .paths import locate
from .sampling import sample
from .toy import load_toy_clip, load_toy_controlnet, load_toy_editor, load_toy_models
from .training import open_for_training

if TYPE_CHECKING:
    from torch import Tensor

    from ...diffusion.schedule import DiscreteSchedule
    from ...methods.attachment import Attachment, BlockSite, NormSite
    from ...methods.flow_edit import FlowEdit, FlowEditPrompts
    from ...methods.via.blend import BoundaryBlend
    from ..protocol import PictureEditor, PictureTrainingView, Progress, TrainingView
    from .flow_editor import FlowEditorModel, FlowTextEncoder
    from .toy_wan import VideoAutoencoder
    from .video import DiffusersVideoModel


NO_FLOW = ("model: {} needs a flow model, such as Wan, HunyuanVideo, LTX, FLUX or SD3, but a U-Net of Stable Diffusion "
           "is none.")


class DiffusersBackend(Local):
    """See ``backends.protocol.Backend``; MODEL values are ``DiffusersModel``."""

    def sites(self, model: DiffusersModel) -> list[BlockSite]:
        return [located.site for located in locate(model.unet)]

    def joint_sites(self, model: DiffusersModel) -> list[BlockSite]:
        return []

    def norms(self, model: DiffusersModel) -> list[NormSite]:
        self.sites(model)
        return [site for site, _ in located_norms(model.unet)]

    def attachments(self, model: DiffusersModel) -> tuple[Attachment, ...]:
        return model.attachments

    def attach(self, model: DiffusersModel, attachment: Attachment) -> DiffusersModel:
        unknown = attachment.sites - {site.path for site in self.sites(model)}
        if unknown:
            raise ValueError(f"model: {attachment.method} names the block {min(unknown)}, which this U-Net has not.")
        kept = [a for a in model.attachments if a.method != attachment.method]
        check_rivals(attachment, kept)
        if attachment.norms and (strange := set(attachment.norms) - {site.key for site in self.norms(model)}):
            raise ValueError(f"model: {attachment.method} names the norm layer {min(strange).replace('/', '.')}, "
                             "which this U-Net has not.")
        for tree in attachment.trees:
            tree.to(model.unet.device)
        return replace(model, attachments=(*kept, attachment))

    def add_query_deltas(self, model: DiffusersModel, deltas: Mapping[str, Tensor]) -> DiffusersModel:
        total = dict(model.query_deltas)
        for key, delta in deltas.items():
            delta = delta.detach().to(model.unet.device)
            total[key] = total[key] + delta if key in total else delta
        return replace(model, query_deltas=total)

    def projections(self, model: DiffusersModel) -> dict[str, tuple[int, int]]:
        return {f"{located.site.path}.{name}": tuple(located.block.get_submodule(name).weight.shape)
                for located in locate(model.unet) for name in PROJECTIONS}

    def add_lora(self, model: DiffusersModel, lora: Mapping[str, Tensor]) -> DiffusersModel:
        check_shapes(lora, self.projections(model))
        return self.add_query_deltas(model, differences(lora))

    def takes_image(self, model: DiffusersModel) -> bool:
        return model.unet.config.in_channels == 2 * model.unet.config.out_channels

    def fingerprint(self, model: DiffusersModel) -> str:
        # Anew at every call: a change through ``.data`` shows in no version counter.
        base = fingerprint.of_tensors(model.unet.state_dict().values())
        if not model.query_deltas:
            return base
        # What is tuned on a tuned model belongs to that one, not to the model below it.
        shifts = (fingerprint.of_tensors([delta]) for _, delta in sorted(model.query_deltas.items()))
        return hashlib.sha256(" ".join([base, *shifts]).encode()).hexdigest()

    def schedule(self, model: DiffusersModel) -> DiscreteSchedule:
        return model.schedule

    def to_model_space(self, model: DiffusersModel, samples: Tensor) -> Tensor:
        return samples * model.latent_scale

    def from_model_space(self, model: DiffusersModel, samples: Tensor) -> Tensor:
        return samples / model.latent_scale

    def training(self, model: DiffusersModel, attachments: Iterable[Attachment], conditioning: Any, frames: int,
                 queries: bool = True, checkpointing: bool = False,
                 lora: Mapping[str, Tensor] | None = None) -> AbstractContextManager[TrainingView]:
        return open_for_training(model, tuple(attachments), conditioning, frames, queries, checkpointing, lora or {})

    def invert(self, model: DiffusersModel, conditioning: Any, samples: Tensor, sigmas: Tensor, refinement: int,
               progress: Progress) -> list[Tensor]:
        # The noise of the source: what edits all frames alike has no part in it. Windows have one where frames see
        # each other.
        kept = tuple(a for a in model.attachments if a.plan is None or a.plan.cuts_clip)
        plain = replace(model, attachments=kept)
        denoise = Denoiser(plain, conditioning, frames=len(samples))
        with torch.no_grad():
            trajectory = ddim_inversion(
                denoise, self.to_model_space(model, samples), sigmas,
                {"run": denoise.start(sigmas.flip(0))}, refinement=refinement, disable=True,
                callback=lambda state: progress.update(state["i"] + 1))
        # The clip itself as it came: scaling there and back would round it.
        return [samples, *(self.from_model_space(model, x) for x in trajectory[1:])]

    def sample(self, model: DiffusersModel, positive: Any, negative: Any, guidance: float, samples: Tensor,
               sigmas: Tensor, progress: Progress, *, sampler: str | Callable[..., Tensor] = "euler", seed: int = 0,
               middle: Any = None, middle_guidance: float = 1.0) -> Tensor:
        denoise = Denoiser(model, positive, negative, guidance, middle=middle, middle_cfg=middle_guidance,
                           frames=len(samples))
        mixed = sampler if isinstance(sampler, BlendedSampler) else None
        x = sample(denoise, mixed.bound(partial(self.to_model_space, model)) if mixed else sampler,
                   self.to_model_space(model, samples), sigmas, {"seed": seed},
                   lambda state: progress.update(state["i"] + 1))
        out = self.from_model_space(model, x)
        return mixed.blend.restore(out, sigmas) if mixed else out

    def blend_sampler(self, sampler: str | Callable[..., Tensor], blend: BoundaryBlend) -> BlendedSampler:
        return BlendedSampler(sampler, blend)

    def check_flow(self, model: DiffusersModel, what: str) -> None:
        raise TypeError(NO_FLOW.format(what))

    def invert_flow(self, model: DiffusersModel, conditioning: Any, samples: Tensor, sigmas: Tensor, progress: Progress
                    ) -> list[Tensor]:
        raise TypeError("model: a flow is inverted in ComfyUI only; run the graph with --host comfy.")

    def flow_edit(self, model: DiffusersModel, prompts: FlowEditPrompts, settings: FlowEdit) -> tuple[Any, Any]:
        raise TypeError(NO_FLOW.format("FlowEdit"))

    def picture_editor(self, clip: Any, vae: Any) -> PictureEditor:
        from .flow_editor import FlowTextEncoder, ToyPictureEditor

        if isinstance(clip, FlowTextEncoder):
            return ToyPictureEditor(clip, vae)
        raise TypeError("clip: editors of pictures run in ComfyUI only; run the graph with --host comfy.")

    def picture_training(
        self, model: Any, lora: Mapping[str, Tensor]
    ) -> AbstractContextManager[PictureTrainingView]:
        raise TypeError("model: editors of pictures are trained in ComfyUI only; run the graph with --host comfy.")

    def guider_model(self, guider: Any) -> DiffusersModel:
        return guiding.model_of(guider)

    def guider_conditions(self, guider: Any) -> dict[str, list[Mapping[str, Any]]]:
        return guiding.conditions_of(guider)

    def changed_guider(self, guider: Any, model: DiffusersModel,
                       change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
        return guiding.changed(guider, model, change)

    def check_guided(self, guider: Any, sampler: Any) -> None:
        guiding.check(guider, sampler)

    def guided_identity(self, guider: Any, sampler: Any, vae: Any) -> Any:
        return guiding.identity_of(guider, sampler, vae, self.fingerprint(guider.model))

    def guided(self, guider: Any, noise: Tensor, samples: Tensor, sampler: Any, sigmas: Tensor, seed: int,
               step: Callable[[int], None]) -> Tensor:
        return guiding.run(guider, noise, samples, sampler, sigmas, seed, step)

    def hinted(self, condition: Mapping[str, Any], control_net: Any, hints: Tensor, strength: float, start: float,
               end: float, vae: Any, made: dict[Any, Any]) -> dict[str, Any]:
        return {**condition, "control": control_net.applied(hints, strength, start, end, condition.get("control"))}

    def control_identity(self, control_net: Any) -> Any:
        return fingerprint.of_tensors(control_net.net.state_dict().values())

    def encoded(self, model: DiffusersModel, vae: Any, images: Tensor) -> Tensor:
        return guiding.encoded(vae, images)

    def decoded(self, vae: Any, samples: Tensor) -> Tensor:
        return vae.decode(samples)

    def load_toy(self) -> tuple[DiffusersModel, TextEncoder, Autoencoder]:
        return load_toy_models()

    def load_toy_editor(self) -> tuple[DiffusersModel, TextEncoder, Autoencoder]:
        return load_toy_editor()

    def load_toy_flow_editor(self) -> tuple[FlowEditorModel, FlowTextEncoder, Autoencoder]:
        from .flow_editor import load_toy_flow_editor

        return load_toy_flow_editor()

    def load_toy_controlnet(self) -> ControlNet:
        return load_toy_controlnet()

    def load_toy_video(self) -> tuple[DiffusersVideoModel, TextEncoder, VideoAutoencoder]:
        from .toy_wan import load_toy_video

        return load_toy_video()

    def load_toy_clip(self) -> tuple[TextEncoder, ImageEncoder]:
        return load_toy_clip()

    def text_embedding(self, clip: TextEncoder, text: str) -> Tensor:
        if not isinstance(clip, TextEncoder):
            raise TypeError(f"clip: expected a CLIP, but got a {type(clip).__name__}.")
        return clip.embed(text)

    def text_tokens(self, clip: TextEncoder, text: str) -> TextTokens:
        if not isinstance(clip, TextEncoder):
            raise TypeError(f"clip: expected a CLIP, but got a {type(clip).__name__}.")
        return TextTokens.read(text, lambda part: clip.tokenize(part)[0].tolist())

    def image_embeddings(self, clip_vision: ImageEncoder, images: Tensor) -> Tensor:
        if not isinstance(clip_vision, ImageEncoder):
            raise TypeError(f"clip_vision: expected a CLIP_VISION, but got a {type(clip_vision).__name__}.")
        return clip_vision.embed(images)
