"""What a method asks of a host. Sampling stays the host's own; no trainer lives here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from ..diffusion.schedule import DiscreteSchedule
    from ..methods.attachment import Attachment, BlockSite, NormSite
    from ..methods.flow_edit import FlowEdit, FlowEditPrompts
    from ..methods.lora_edit.memory import MemoryPlan, NetworkSize
    from ..methods.lora_edit.samples import Sample
    from ..methods.prompt_to_prompt import TextTokens
    from ..methods.via.blend import BoundaryBlend


class Progress(Protocol):
    """A progress bar of the host."""

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        """Show ``value`` of the total, an optional PIL image and numbers such as loss.

        Raises:
            the host's own exception when the user cancelled.
        """


class TrainingView(Protocol):
    """A U-Net opened for training: gradients reach the trained tensors only.

    ``parameters`` holds float32 leaves that require a gradient, by the key under which
    they are saved: ``<method>.<site path>.<name>`` for modules,
    ``queries.<site path>.<attn1.to_q|attn2.to_q>.weight`` for the *differences* of query
    projections, which start at zero, and the keys of ``methods.lora`` for a LoRA.
    """

    parameters: Mapping[str, Tensor]

    def predict_noise(self, noisy: Tensor, timestep: Tensor, conditioning: Any = None) -> Tensor:
        """epsilon_theta(x_t, t, c), differentiable.

        Args:
            noisy: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps, [frames, channels, h, w],
                in the model's own latent scale.
            timestep: integer index, shape [] (one for the clip) or [frames].
            conditioning: CONDITIONING of this call, with as many entries as the one that the
                MODEL was opened with; its text and ``concat_latent_image`` take the place of
                that one's. One row for all frames or one a frame. None: as opened.
        """


class Host(Protocol):
    """What every host gives to every training."""

    def fingerprint(self, model: Any) -> str:
        """Hash of the network's weights and of the weight patches on it (LoRA), without the
        attachments: the name of the base that weights were tuned on."""

    def to_model_space(self, model: Any, samples: Tensor) -> Tensor:
        """LATENT samples in the scale that the U-Net sees (SD1.x: times 0.18215)."""

    def latent_picture(self, model: Any) -> Callable[[Tensor], Any] | None:
        """Draws one frame's latent [1, channels, height, width], or of a video model [1, channels, 1, height,
        width], in the model's scale, as a PIL image in the host's colours; None where it has none for the model."""

    def progress(self, total: int, label: str) -> Progress:
        """A progress bar, with cancelling where the host has it."""

    def weights_folder(self) -> Path:
        """Where tuned weights are kept (the host's models folder ``steadyedit``)."""

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        """Exceptions by which the host says that memory ran out."""


class UNetHost(Host, Protocol):
    """A host of U-Nets: networks that predict the noise of discrete steps."""

    def takes_image(self, model: Any) -> bool:
        """Whether the U-Net reads an image's latent beside the noise, as InstructPix2Pix."""

    def schedule(self, model: Any) -> DiscreteSchedule:
        """The noise schedule. Raises TypeError where the MODEL does not predict epsilon."""


class Attaching(Host, Protocol):
    """What attaching asks of a host: where a U-Net's layers are, and clones with something added."""

    def sites(self, model: Any) -> list[BlockSite]:
        """All transformer blocks in the order of the forward pass. Raises TypeError (one
        sentence that names the input ``model``) where the MODEL is no U-Net."""

    def joint_sites(self, model: Any) -> list[BlockSite]:
        """Blocks of joint attention of a diffusion transformer, as ``double_blocks.0``, in order; none of a U-Net.
        Raises TypeError (one sentence) where the MODEL is neither."""

    def norms(self, model: Any) -> list[NormSite]:
        """All normalisation layers in the order of the forward pass; raises as ``sites``."""

    def attachments(self, model: Any) -> tuple[Attachment, ...]:
        """What is attached already, in order."""

    def attach(self, model: Any, attachment: Attachment) -> Any:
        """A clone of the MODEL with one attachment more; the input is not changed. An
        attachment of the same method replaces the earlier one. Raises ValueError if two
        attachments would replace the same attention, or split the clip in ways that do not
        go together (``methods.attachment.check_rivals``)."""

    def add_query_deltas(self, model: Any, deltas: Mapping[str, Tensor]) -> Any:
        """A clone whose query weights are W + delta, keys
        ``<site path>.<attn1.to_q|attn2.to_q>.weight``."""

    def projections(self, model: Any) -> dict[str, tuple[int, int]]:
        """(out, in) of every attention projection, by ``<site path>.<name>`` with the names
        of ``methods.lora.PROJECTIONS``."""

    def add_lora(self, model: Any, lora: Mapping[str, Tensor]) -> Any:
        """A clone with a LoRA (keys of ``methods.lora``) on its weights, at strength 1.
        Raises ValueError (one sentence) where the MODEL lacks one of its layers."""


class Sampling(UNetHost, Protocol):
    """What running a denoiser asks of a host; sampling stays its own."""

    def from_model_space(self, model: Any, samples: Tensor) -> Tensor:
        """The inverse of ``to_model_space``."""

    def invert(
        self, model: Any, conditioning: Any, samples: Tensor, sigmas: Tensor, refinement: int, progress: Progress
    ) -> list[Tensor]:
        """Run ``diffusion.inversion.ddim_inversion`` with the host's own denoiser at
        guidance 1, on LATENT samples; returns x at every sigma, LATENT scale."""

    def sample(
        self, model: Any, positive: Any, negative: Any, guidance: float, samples: Tensor, sigmas: Tensor,
        progress: Progress, *, sampler: str | Callable[..., Tensor] = "euler", seed: int = 0, middle: Any = None,
        middle_guidance: float = 1.0,
    ) -> Tensor:
        """Denoise LATENT samples, x at ``sigmas[0]``, down the descending ``sigmas`` with the
        host's own denoiser and guidance, adding no noise beforehand; returns the LATENT samples
        at ``sigmas[-1]``. ``sampler`` is a name of ``diffusion.samplers.SAMPLERS`` (the default
        is DDIM: Euler in sigma space) or a function in k-diffusion's convention, ``seed`` that
        of the noise it draws. ``middle`` makes the guidance InstructPix2Pix's: D = D_neg +
        middle_guidance (D_mid - D_neg) + guidance (D_pos - D_mid). The plans of attached
        methods are carried out; inversion leaves them out."""

    def blend_sampler(self, sampler: Any, blend: BoundaryBlend) -> Any:
        """A SAMPLER (or a name of one) as one that keeps a region of the clip. Raises ValueError
        where the sampler gives no hand on its steps."""


class Training(UNetHost, Protocol):
    """What training what is attached asks of a host; the loop is ``methods.training_loop``."""

    def training(
        self,
        model: Any,
        attachments: Iterable[Attachment],
        conditioning: Any,
        frames: int,
        queries: bool = True,
        checkpointing: bool = False,
        lora: Mapping[str, Tensor] | None = None,
    ) -> AbstractContextManager[TrainingView]:
        """Open the MODEL for training ``attachments`` (whose modules the caller owns and
        may change) under one CONDITIONING. On leaving, also by an error or a cancel, the
        MODEL is bit for bit as before. ``checkpointing`` recomputes block by block in the
        backward pass: the same gradients with less memory. ``lora`` holds the values that a
        LoRA starts from (``methods.lora``), to be trained beside the frozen weights."""


class Embedding(Protocol):
    """What scoring asks of a host: the space that text and images share."""

    def text_embedding(self, clip: Any, text: str) -> Tensor:
        """A text [1, d] in the space that its CLIP shares with images. Raises ValueError (one
        sentence) where this CLIP has no such space."""

    def text_tokens(self, clip: Any, text: str) -> TextTokens:
        """A prompt's words and tokens as this CLIP reads them. Raises ValueError (one sentence) where its words are
        not tokens of their own."""

    def image_embeddings(self, clip_vision: Any, images: Tensor) -> Tensor:
        """IMAGE [n, height, width, 3] as [n, d] in the space shared with text."""


class ToyLoader(Protocol):
    """The toy world's models, in the host's own types."""

    def load_toy(self) -> tuple[Any, Any, Any]:
        """MODEL, CLIP and VAE of the toy world, in the host's own types."""

    def load_toy_editor(self) -> tuple[Any, Any, Any]:
        """MODEL and CLIP of the toy world's instruction editor (8 input channels), and its VAE."""

    def load_toy_flow_editor(self) -> tuple[Any, Any, Any]:
        """MODEL and CLIP of the toy world's flow-matching editor, FLUX.1 Kontext's in small, and its VAE."""

    def load_toy_controlnet(self) -> Any:
        """CONTROL_NET of the toy world: edges (``toyworld.models.control.edges``)."""

    def load_toy_video(self) -> tuple[Any, Any, Any]:
        """MODEL, CLIP and VAE of the toy world's image-to-video model, Wan 2.1's in small."""

    def load_toy_clip(self) -> tuple[Any, Any]:
        """CLIP and CLIP_VISION of the toy world's scorer, which share one space."""


class Tuning(Attaching, Training, Protocol):
    """What training what is attached, or a LoRA beside it, and keeping it asks of a host."""


class Editing(Tuning, Sampling, Protocol):
    """What a paper's whole road asks of a host: attach, train, invert, sample."""


class Flows(Protocol):
    """What editing with a flow model asks of a host."""

    def check_flow(self, model: Any, what: str) -> None:
        """Raise TypeError (one sentence that names the input ``model``) where the MODEL is no flow model."""

    def invert_flow(self, model: Any, conditioning: Any, samples: Tensor, sigmas: Tensor, progress: Progress
                    ) -> list[Tensor]:
        """Run ``diffusion.inversion.flow_inversion`` on LATENT samples with the host's own denoiser at guidance 1;
        returns x at each of the ascending sigmas, LATENT scale."""

    def flow_edit(self, model: Any, prompts: FlowEditPrompts, settings: FlowEdit) -> tuple[Any, Any]:
        """A GUIDER and its SAMPLER, for SamplerCustomAdvanced. Raises TypeError (one sentence that names the input
        ``model``) where the MODEL is no flow model."""


class PictureEditor(Protocol):
    """Text encoder and VAE of an editor that reads the picture that it edits as reference latents."""

    @property
    def reads_pictures(self) -> bool:
        """Whether the text encoder is shown pictures, too."""

    @property
    def one_picture(self) -> str:
        """Its name, where it knows one picture only, the one that it edits; empty: it takes a second one."""

    def prompt(self, text: str, pictures: Sequence[Tensor]) -> Any:
        """CONDITIONING of a text with pictures, IMAGE [1, height, width, 3] each, as the family's own node gives it,
        without references."""

    def at_trained_size(self, picture: Tensor) -> Tensor:
        """The picture at the size of a reference that the editor was trained with, as the family's own node does it."""

    def latent(self, picture: Tensor) -> Tensor:
        """LATENT samples of one picture, [1, channels, (1,) height, width]."""


class Pictures(Protocol):
    """What showing a clip to an editor of pictures asks of a host."""

    def picture_editor(self, clip: Any, vae: Any) -> PictureEditor:
        """Raises TypeError or ValueError (one sentence that names the input ``clip`` or ``vae``) where the text encoder
        is that of another family, or the VAE does not belong to it."""


class PictureTrainingView(Protocol):
    """An image transformer opened for training: gradients reach a LoRA's matrices only.

    ``parameters`` holds float32 leaves that require a gradient, by the keys of ``methods.lora``.
    """

    parameters: Mapping[str, Tensor]

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, conditioning: Any) -> Tensor:
        """v_theta(x_sigma, sigma, c), differentiable.

        Args:
            noisy: x_sigma = (1 - sigma) x_0 + sigma eps, [rows, channels, (1,) h, w], in the model's own latent scale.
            sigma: shape [] or [rows].
            conditioning: CONDITIONING, with a row for all or one each.
        """


class PictureTraining(Attaching, Protocol):
    """What adapting an editor of pictures asks of a host."""

    def picture_training(self, model: Any, lora: Mapping[str, Tensor]) -> AbstractContextManager[PictureTrainingView]:
        """Open a FLUX or Qwen-Image MODEL for training a LoRA beside its frozen weights. On leaving, also by an error
        or a cancel, the MODEL is bit for bit as before. Raises TypeError (one sentence) for other networks."""


class Guiding(Attaching, Protocol):
    """What editing by a GUIDER in windows asks of a host. Nothing that comes in is changed."""

    def guider_model(self, guider: Any) -> Any:
        """The MODEL of a GUIDER. Raises TypeError (one sentence) where it is no GUIDER."""

    def guider_conditions(self, guider: Any) -> dict[str, list[Mapping[str, Any]]]:
        """What each of its conditions holds, by the condition's name; the text as "cross_attn"."""

    def changed_guider(
        self, guider: Any, model: Any, change: Callable[[Mapping[str, Any]], dict[str, Any]]
    ) -> Any:
        """A copy on another MODEL, every condition's mapping changed."""

    def check_guided(self, guider: Any, sampler: Any) -> None:
        """Raise ValueError (one sentence) where a frame's result would hang on the frames beside it."""

    def guided_identity(self, guider: Any, sampler: Any, vae: Any) -> Any:
        """What decides the result of all three, fit for ``content_hash``; None where it can not be told."""

    def guided(
        self, guider: Any, noise: Tensor, samples: Tensor, sampler: Any, sigmas: Tensor, seed: int,
        step: Callable[[int], None],
    ) -> Tensor:
        """LATENT samples sampled from ``noise`` at ``sigmas[0]``; calls ``step`` with the steps that are done. Raises
        ValueError where the sampler draws noise on its way, which would differ by window."""

    def hinted(
        self, condition: Mapping[str, Any], control_net: Any, hints: Tensor, strength: float, start: float, end: float,
        vae: Any, made: dict[Any, Any],
    ) -> dict[str, Any]:
        """A condition of a GUIDER under a ControlNet with hints, IMAGE [frames, height, width, 3], behind those that it
        has. ``made`` is empty for the first condition of a window: what conditions share is kept there."""

    def control_identity(self, control_net: Any) -> Any:
        """What decides what a CONTROL_NET does, fit for ``content_hash``; None where it can not be told."""

    def encoded(self, model: Any, vae: Any, images: Tensor) -> Tensor:
        """IMAGE as LATENT samples [frames, channels, (1,) h, w] of the MODEL. Raises ValueError where the VAE is one of
        whole clips and the MODEL none of pictures in their form (Qwen-Image)."""

    def decoded(self, vae: Any, samples: Tensor) -> Tensor:
        """The inverse, on the CPU."""


class Streaming(Guiding, Sampling, Protocol):
    """What a streamed edit asks of a host."""


class Backend(Editing, Streaming, Embedding, ToyLoader, Flows, Pictures, PictureTraining, Protocol):
    """Everything that differs between the hosts of a U-Net."""


class VideoTrainingView(Protocol):
    """A video transformer opened for training: gradients reach a LoRA's matrices only.

    ``parameters`` holds float32 leaves that require a gradient, by the keys of ``methods.lora``.
    """

    parameters: Mapping[str, Tensor]

    def predict_velocity(self, noisy: Tensor, sigma: Tensor, sample: int) -> Tensor:
        """v_theta(x_sigma, sigma, c), differentiable.

        Args:
            noisy: x_sigma = (1 - sigma) x_0 + sigma eps, [1, channels, T', h, w], the model's latent scale.
            sigma: noise level, shape []; the network sees the host's own timestep of it.
            sample: number of the sample whose condition this is.
        """


class VideoBackend(Host, Flows, Protocol):
    """What training a video transformer asks of a host. Sampling stays the host's own."""

    def video_family(self, model: Any) -> str:
        """One of ``methods.lora_edit.choices.FAMILIES``. Raises TypeError (one sentence that names the input
        ``model``) where the MODEL reads no mask beside its condition."""

    def video_layers(self, model: Any) -> dict[str, tuple[int, int]]:
        """(out, in) of every Linear of the transformer blocks, by the name that LoRA files of hosts use."""

    def video_size(self, model: Any, sample: Sample, precision: str, lora: Mapping[str, Tensor]) -> NetworkSize:
        """What decides the memory that training this LoRA needs on one sample."""

    def video_room(self, model: Any) -> tuple[int, str]:
        """Bytes that the device can give to this MODEL and its training, and the device's name."""

    def video_training(
        self, model: Any, samples: Sequence[Sample], lora: Mapping[str, Tensor], planned: MemoryPlan, precision: str
    ) -> AbstractContextManager[VideoTrainingView]:
        """Open the MODEL for training a LoRA, which starts from the values in ``lora``, beside the frozen weights;
        blocks are computed again in backward. On leaving, also by an error or a cancel, the MODEL is bit for bit as
        before. ``precision``: "auto" (bfloat16 where the device computes in it) or "float32"."""

    def has_video_lora(self, model: Any, lora: Mapping[str, Tensor]) -> bool:
        """Whether this very LoRA is on the MODEL's weights already."""

    def add_video_lora(self, model: Any, lora: Mapping[str, Tensor]) -> Any:
        """A clone with a LoRA on its weights, at strength 1. Raises ValueError (one sentence) where the MODEL lacks
        one of its layers."""
