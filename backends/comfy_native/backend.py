"""``backends.protocol.Backend`` on ComfyUI's MODEL. Each method is one call into the file that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import torch

from ...diffusion.schedule import DiscreteSchedule
from . import guiding, identity, lora, patcher, picture_training, previews, sampling, training, video, video_network
from .blend import blend_sampler
from .blocks import sites_of, unet_of
from .flow_edit import check_flow, flow_edit_guider
from .joint_blocks import joint_sites_of
from .model_manager import FOLDER, model_folders
from .norms import norms_of
from .picture_editors import picture_editor
from .progress import ComfyProgress

if TYPE_CHECKING:
    from comfy.model_patcher import ModelPatcher
    from PIL.Image import Image
    from torch import Tensor

    from ...methods.attachment import Attachment, BlockSite, NormSite
    from ...methods.flow_edit import FlowEdit, FlowEditPrompts
    from ...methods.lora_edit.memory import MemoryPlan, NetworkSize
    from ...methods.lora_edit.samples import Sample
    from ...methods.prompt_to_prompt import TextTokens
    from ...methods.via.blend import BoundaryBlend
    from ..protocol import PictureEditor, PictureTrainingView, Progress, TrainingView, VideoTrainingView



class ComfyBackend:
    """ComfyUI, native. Holds nothing: everything is in the MODEL."""

    def sites(self, model: ModelPatcher) -> list[BlockSite]:
        return sites_of(model)

    def joint_sites(self, model: ModelPatcher) -> list[BlockSite]:
        return joint_sites_of(model)

    def norms(self, model: ModelPatcher) -> list[NormSite]:
        return norms_of(model)

    def attachments(self, model: ModelPatcher) -> tuple[Attachment, ...]:
        return patcher.state_of(model).attachments

    def attach(self, model: ModelPatcher, attachment: Attachment) -> ModelPatcher:
        return patcher.attach(model, attachment)

    def add_query_deltas(self, model: ModelPatcher, deltas: Mapping[str, Tensor]) -> ModelPatcher:
        return patcher.add_query_deltas(model, deltas)

    def projections(self, model: ModelPatcher) -> dict[str, tuple[int, int]]:
        return lora.shapes_of(model)

    def add_lora(self, model: ModelPatcher, weights: Mapping[str, Tensor]) -> ModelPatcher:
        return lora.add_lora(model, weights)

    def takes_image(self, model: ModelPatcher) -> bool:
        return isinstance(model.model, comfy.model_base.IP2P)

    def fingerprint(self, model: ModelPatcher) -> str:
        return identity.of_model(model)

    def schedule(self, model: ModelPatcher) -> DiscreteSchedule:
        unet_of(model)
        host = model.get_model_object("model_sampling")
        velocity = isinstance(host, comfy.model_sampling.V_PREDICTION)
        if velocity or not isinstance(host, comfy.model_sampling.EPS) or not hasattr(host, "sigmas"):
            raise TypeError("model: predicts something else than noise (v-prediction or flow); "
                            "load an epsilon-predicting checkpoint such as Stable Diffusion 1.5.")
        return DiscreteSchedule(1 / (1 + host.sigmas.detach().cpu().double() ** 2))

    def to_model_space(self, model: ModelPatcher, samples: Tensor) -> Tensor:
        return model.model.process_latent_in(samples)

    def from_model_space(self, model: ModelPatcher, samples: Tensor) -> Tensor:
        return model.model.process_latent_out(samples)

    def training(
        self, model: ModelPatcher, attachments: Iterable[Attachment], conditioning: Any, frames: int,
        queries: bool = True, checkpointing: bool = False, lora: Mapping[str, Tensor] | None = None,
    ) -> AbstractContextManager[TrainingView]:
        return training.open_for_training(model, attachments, conditioning, frames, queries, checkpointing, lora or {})

    def invert(
        self, model: ModelPatcher, conditioning: Any, samples: Tensor, sigmas: Tensor, refinement: int,
        progress: Progress,
    ) -> list[Tensor]:
        return sampling.invert(model, conditioning, samples, sigmas, refinement, progress)

    def sample(
        self, model: ModelPatcher, positive: Any, negative: Any, guidance: float, samples: Tensor, sigmas: Tensor,
        progress: Progress, *, sampler: str | Callable[..., Tensor] = "euler", seed: int = 0, middle: Any = None,
        middle_guidance: float = 1.0,
    ) -> Tensor:
        return sampling.sample(model, positive, negative, guidance, samples, sigmas, progress, sampler, seed, middle,
                               middle_guidance)

    def blend_sampler(self, sampler: Any, blend: BoundaryBlend) -> Any:
        return blend_sampler(sampling.sampler_of(sampler), blend)

    def check_flow(self, model: ModelPatcher, what: str) -> None:
        check_flow(model, what)

    def invert_flow(
        self, model: ModelPatcher, conditioning: Any, samples: Tensor, sigmas: Tensor, progress: Progress
    ) -> list[Tensor]:
        return sampling.invert_flow(model, conditioning, samples, sigmas, progress)

    def flow_edit(self, model: ModelPatcher, prompts: FlowEditPrompts, settings: FlowEdit) -> tuple[Any, Any]:
        return flow_edit_guider(model, prompts, settings)

    def picture_editor(self, clip: Any, vae: Any) -> PictureEditor:
        return picture_editor(clip, vae)

    def picture_training(
        self, model: ModelPatcher, lora: Mapping[str, Tensor]
    ) -> AbstractContextManager[PictureTrainingView]:
        return picture_training.open_for_training(model, lora)

    def latent_picture(self, model: ModelPatcher) -> Callable[[Tensor], Image] | None:
        return previews.latent_picture(model)

    def progress(self, total: int, label: str) -> Progress:
        return ComfyProgress(total, label)

    def guider_model(self, guider: Any) -> ModelPatcher:
        return guiding.model_of(guider)

    def guider_conditions(self, guider: Any) -> dict[str, list[Mapping[str, Any]]]:
        return guiding.conditions_of(guider)

    def changed_guider(
        self, guider: Any, model: ModelPatcher, change: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> Any:
        return guiding.changed(guider, model, change)

    def check_guided(self, guider: Any, sampler: Any) -> None:
        guiding.check(guider, sampler)

    def guided_identity(self, guider: Any, sampler: Any, vae: Any) -> Any:
        return guiding.identity_of(guider, sampler, vae)

    def guided(
        self, guider: Any, noise: Tensor, samples: Tensor, sampler: Any, sigmas: Tensor, seed: int,
        step: Callable[[int], None],
    ) -> Tensor:
        return guiding.run(guider, noise, samples, sampler, sigmas, seed, step)

    def hinted(
        self, condition: Mapping[str, Any], control_net: Any, hints: Tensor, strength: float, start: float, end: float,
        vae: Any, made: dict[Any, Any],
    ) -> dict[str, Any]:
        return guiding.hinted(condition, control_net, hints, strength, (start, end), vae, made)

    def control_identity(self, control_net: Any) -> Any:
        return guiding.identity_of_control(control_net)

    def encoded(self, model: ModelPatcher, vae: Any, images: Tensor) -> Tensor:
        return guiding.encoded(model, vae, images)

    def decoded(self, vae: Any, samples: Tensor) -> Tensor:
        return guiding.decoded(vae, samples)

    def load_toy(self) -> tuple[ModelPatcher, Any, Any]:
        """MODEL, CLIP and VAE of the toy world."""
        from . import toy

        return toy.load()

    def load_toy_editor(self) -> tuple[ModelPatcher, Any, Any]:
        """MODEL and CLIP of the toy world's instruction editor, and its VAE."""
        from . import toy

        return toy.load_editor()

    def load_toy_flow_editor(self) -> tuple[ModelPatcher, Any, Any]:
        """MODEL and CLIP of the toy world's flow-matching editor, and its VAE."""
        from . import toy

        return toy.load_flow_editor()

    def load_toy_controlnet(self) -> Any:
        """CONTROL_NET of the toy world's edges."""
        from . import toy

        return toy.load_controlnet()

    def load_toy_video(self) -> tuple[ModelPatcher, Any, Any]:
        """MODEL, CLIP and VAE of the toy world's image-to-video model."""
        from . import toy_wan

        return toy_wan.load()

    def load_toy_clip(self) -> tuple[Any, Any]:
        """CLIP and CLIP_VISION of the toy world's scorer."""
        from . import clip_models

        return clip_models.load_toy_clip()

    def text_embedding(self, clip: Any, text: str) -> Tensor:
        from . import clip_models

        return clip_models.text_embedding(clip, text)

    def text_tokens(self, clip: Any, text: str) -> TextTokens:
        from . import clip_models

        return clip_models.text_tokens(clip, text)

    def image_embeddings(self, clip_vision: Any, images: Tensor) -> Tensor:
        from . import clip_models

        return clip_models.image_embeddings(clip_vision, images)

    def weights_folder(self) -> Path:
        return model_folders(FOLDER)[0]

    def video_family(self, model: ModelPatcher) -> str:
        return video_network.network_of(model).family

    def video_layers(self, model: ModelPatcher) -> dict[str, tuple[int, int]]:
        return video_network.layer_shapes(video_network.network_of(model))

    def video_size(self, model: ModelPatcher, sample: Sample, precision: str,
                   lora: Mapping[str, Tensor]) -> NetworkSize:  # fmt: skip
        return video.size_of(model, sample, precision)

    def video_room(self, model: ModelPatcher) -> tuple[int, str]:
        return video.free_bytes(model), comfy.model_management.get_torch_device_name(model.load_device)

    def video_training(
        self, model: ModelPatcher, samples: Sequence[Sample], lora: Mapping[str, Tensor], planned: MemoryPlan,
        precision: str,
    ) -> AbstractContextManager[VideoTrainingView]:
        return video.open_for_training(model, samples, lora, planned, precision)

    def has_video_lora(self, model: ModelPatcher, lora: Mapping[str, Tensor]) -> bool:
        return video.carries(model, lora)

    def add_video_lora(self, model: ModelPatcher, weights: Mapping[str, Tensor]) -> ModelPatcher:
        return video.add_lora(model, weights)

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        # Not the host's OOM_EXCEPTION, which is plain Exception where torch has no CUDA.
        return (torch.cuda.OutOfMemoryError, MemoryError)
