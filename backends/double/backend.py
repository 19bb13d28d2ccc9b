"""``backends.protocol.Backend`` for the test double."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ...diffusion.inversion import ddim_inversion
from ...diffusion.sampling import guided, sample_euler
from ...diffusion.schedule import DiscreteSchedule
from ...methods.attachment import Attachment, BlockSite, check_rivals, named_tensors
from .. import fingerprint
from .unet import CHANNELS, HEADS, PATHS, Attached, DoubleModel


@dataclass
class RecordedProgress:
    """A progress bar that remembers, and that cancels at a chosen step."""

    cancel_at: int | None = None
    values: list[int] = field(default_factory=list)
    previews: list[Any] = field(default_factory=list)

    def update(self, value: int, preview: Any = None, **numbers: float) -> None:
        """Raises KeyboardInterrupt, in the place of a host's own exception."""
        self.values.append(value)
        if preview is not None:
            self.previews.append(preview)
        if value == self.cancel_at:
            raise KeyboardInterrupt


@dataclass
class DoubleTraining:
    """``TrainingView`` over a U-Net whose additions travel as arguments."""

    parameters: Mapping[str, Tensor]
    predict: Callable[[Tensor, Tensor], Tensor]
    checkpointing: bool

    def predict_noise(self, noisy: Tensor, timestep: Tensor) -> Tensor:
        if self.checkpointing:
            return checkpoint(self.predict, noisy, timestep, use_reentrant=False)
        return self.predict(noisy, timestep)


@dataclass
class DoubleBackend:
    """See ``backends.protocol.Backend``; MODEL values are ``DoubleModel``.

    Args:
        folder: of the weights.
        opened: how often a model was opened for training.
        fails_at: step at which the memory of the first opening runs out, for tests of the
            retry.
    """

    folder: Path = Path("weights")
    opened: int = 0
    fails_at: int | None = None

    def sites(self, model: DoubleModel) -> list[BlockSite]:
        return [BlockSite(path, CHANNELS, HEADS) for path in PATHS]

    def attachments(self, model: DoubleModel) -> tuple[Attachment, ...]:
        return model.attached.attachments

    def attach(self, model: DoubleModel, attachment: Attachment) -> DoubleModel:
        kept = tuple(a for a in model.attached.attachments if a.method != attachment.method)
        check_rivals(attachment, kept)
        return replace(model, attached=replace(model.attached, attachments=(*kept, attachment)))

    def add_query_deltas(self, model: DoubleModel, deltas: Mapping[str, Tensor]) -> DoubleModel:
        before = model.attached.deltas
        total = {**before, **{name: before[name] + d if name in before else d for name, d in deltas.items()}}
        return replace(model, attached=replace(model.attached, deltas=total))

    def fingerprint(self, model: DoubleModel) -> str:
        return fingerprint.of_tensors([*model.unet.state_dict().values(), *model.attached.deltas.values()])

    def schedule(self, model: DoubleModel) -> DiscreteSchedule:
        return model.schedule

    def to_model_space(self, model: DoubleModel, samples: Tensor) -> Tensor:
        return samples * model.latent_scale

    def from_model_space(self, model: DoubleModel, samples: Tensor) -> Tensor:
        return samples / model.latent_scale

    @contextmanager
    def training(
        self,
        model: DoubleModel,
        attachments: Iterable[Attachment],
        conditioning: Any,
        frames: int,
        queries: bool = True,
        checkpointing: bool = False,
    ) -> Iterator[DoubleTraining]:
        self.opened += 1
        attachments = tuple(attachments)
        parameters = {n: p for a in attachments for n, p in named_tensors(a).items() if p.requires_grad}
        names = {f"{path}.{name}.weight" for a in attachments for path in a.sites for name in a.queries}
        width = next(model.unet.parameters()).dtype
        trained = {n: torch.zeros(CHANNELS, CHANNELS, dtype=width, requires_grad=True) for n in names if queries}
        context = conditioning[0][0].expand(frames, -1, -1)
        calls = 0

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            nonlocal calls
            calls += torch.is_grad_enabled()
            if self.fails_at is not None and not checkpointing and calls == self.fails_at:
                raise MemoryError
            before = model.attached.deltas
            deltas = {**before, **{n: before[n] + t if n in before else t for n, t in trained.items()}}
            return model.unet(noisy, timestep, context, Attached(attachments, deltas), frames)

        parameters |= {f"queries.{name}": delta for name, delta in trained.items()}
        yield DoubleTraining(parameters, predict, checkpointing)

    def invert(
        self, model: DoubleModel, conditioning: Any, samples: Tensor, sigmas: Tensor, refinement: int, progress: Any
    ) -> list[Tensor]:
        trajectory = ddim_inversion(
            self.denoiser(model, conditioning, samples.shape[0]),
            self.to_model_space(model, samples),
            sigmas,
            callback=lambda state: progress.update(state["i"] + 1),
            refinement=refinement,
        )
        return [self.from_model_space(model, x) for x in trajectory]

    def sample(
        self,
        model: DoubleModel,
        positive: Any,
        negative: Any,
        guidance: float,
        samples: Tensor,
        sigmas: Tensor,
        progress: Any,
    ) -> Tensor:
        frames = samples.shape[0]
        denoise = guided(self.denoiser(model, positive, frames), self.denoiser(model, negative, frames), guidance)
        x = sample_euler(
            denoise,
            self.to_model_space(model, samples),
            sigmas,
            callback=lambda state: progress.update(state["i"] + 1),
        )
        return self.from_model_space(model, x)

    def denoiser(self, model: DoubleModel, conditioning: Any, frames: int) -> Callable[..., Tensor]:
        """x_0 from x = x_0 + sigma eps, as k-diffusion calls it."""
        context = conditioning[0][0].expand(frames, -1, -1)

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            wide = sigma.view(-1, 1, 1, 1)
            timestep = model.schedule.timestep(sigma)
            return x - wide * model.unet(x / (1 + wide**2).sqrt(), timestep, context, model.attached, frames)

        return denoise

    def progress(self, total: int, label: str) -> RecordedProgress:
        return RecordedProgress()

    def weights_folder(self) -> Path:
        return self.folder

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        return (MemoryError,)
