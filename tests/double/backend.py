"""``backends.protocol.Backend`` for the test double."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from steadyedit.backends import fingerprint
from steadyedit.diffusion.inversion import ddim_inversion
from steadyedit.diffusion.samplers import named_sampler
from steadyedit.diffusion.sampling import guided
from steadyedit.diffusion.schedule import DiscreteSchedule
from steadyedit.methods.attachment import Attachment, BlockSite, NormSite, check_rivals, module_parameters
from steadyedit.methods.lora import PROJECTIONS, differences
from steadyedit.methods.reference_rows import sample_with_rows
from steadyedit.methods.sampling_plan import Replacement, RunFacts, plan_of
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .unet import CHANNELS, HEADS, PATHS, DoubleModel, DoubleState


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
    predict: Callable[[Tensor, Tensor, Any], Tensor]
    checkpointing: bool

    def predict_noise(self, noisy: Tensor, timestep: Tensor, conditioning: Any = None) -> Tensor:
        if self.checkpointing:
            return checkpoint(self.predict, noisy, timestep, conditioning, use_reentrant=False)
        return self.predict(noisy, timestep, conditioning)


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

    def joint_sites(self, model: DoubleModel) -> list[BlockSite]:
        return []

    def sites(self, model: DoubleModel) -> list[BlockSite]:
        return [BlockSite(path, CHANNELS, HEADS) for path in PATHS]

    def norms(self, model: DoubleModel) -> list[NormSite]:
        return model.unet.norms()

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

    def projections(self, model: DoubleModel) -> dict[str, tuple[int, int]]:
        blocks = ((path, model.unet.blocks[path.replace(".", "/")]) for path in PATHS)
        return {f"{p}.{name}": tuple(b.get_submodule(name).weight.shape) for p, b in blocks for name in PROJECTIONS}

    def add_lora(self, model: DoubleModel, lora: Mapping[str, Tensor]) -> DoubleModel:
        return self.add_query_deltas(model, differences(lora))

    def takes_image(self, model: DoubleModel) -> bool:
        return False

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
        lora: Mapping[str, Tensor] | None = None,
    ) -> Iterator[DoubleTraining]:
        self.opened += 1
        attachments = tuple(attachments)
        parameters = module_parameters(attachments)
        names = {f"{path}.{name}.weight" for a in attachments for path in a.sites for name in a.queries}
        width = next(model.unet.parameters()).dtype
        trained = {n: torch.zeros(CHANNELS, CHANNELS, dtype=width, requires_grad=True) for n in names if queries}
        low_rank = {key: start.clone().requires_grad_() for key, start in (lora or {}).items()}
        opened_with, calls = conditioning, 0

        def predict(noisy: Tensor, timestep: Tensor, conditioning: Any) -> Tensor:
            nonlocal calls
            context = (conditioning or opened_with)[0][0].expand(len(noisy), -1, -1)
            calls += torch.is_grad_enabled()
            if self.fails_at is not None and not checkpointing and calls == self.fails_at:
                raise MemoryError
            before = model.attached.deltas
            new = {**trained, **differences(low_rank)}
            deltas = {**before, **{n: before[n] + t if n in before else t for n, t in new.items()}}
            return model.unet(noisy, timestep, context, DoubleState(attachments, deltas), frames)

        parameters |= {f"queries.{name}": delta for name, delta in trained.items()}
        yield DoubleTraining(parameters | low_rank, predict, checkpointing)

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
        *,
        sampler: str | Callable[..., Tensor] = "euler",
        seed: int = 0,
        middle: Any = None,
        middle_guidance: float = 1.0,
    ) -> Tensor:
        frames, run = samples.shape[0], named_sampler(sampler)
        conditional, unconditional = (self.denoiser(model, c, frames) for c in (positive, negative))
        denoise = guided(conditional, unconditional, guidance)
        if middle is not None:
            denoise = self.dual(
                conditional, self.denoiser(model, middle, frames), unconditional, guidance, middle_guidance
            )
        planned = plan_of(self.attachments(model))
        if planned is not None:
            run = partial(sample_with_rows, planned[0].reference_frames(frames), run)
        x = run(
            denoise,
            self.to_model_space(model, samples),
            sigmas,
            {"seed": seed},
            lambda state: progress.update(state["i"] + 1),
        )
        return self.from_model_space(model, x)

    def denoiser(self, model: DoubleModel, conditioning: Any, frames: int) -> Callable[..., Tensor]:
        """x_0 from x = x_0 + sigma eps, as k-diffusion calls it; by the plan where one is attached and the sampler
        tells its noise levels."""
        context = conditioning[0][0].expand(frames, -1, -1)
        plan, sites = plan_of(self.attachments(model)) or (None, frozenset())
        mixes, runs = any(a.mixes_frames for a in self.attachments(model)), []

        def rows(x: Tensor, sigma: Tensor, ids: Sequence[int], replaced: Replacement | None, mixing: bool) -> Tensor:
            kept = tuple(a for a in self.attachments(model) if mixing or not a.mixes_frames)
            attached = DoubleState(kept, model.attached.deltas, replaced)
            wide = sigma.view(-1, 1, 1, 1)
            timestep = model.schedule.timestep(sigma)
            return x - wide * model.unet(x / (1 + wide**2).sqrt(), timestep, context[list(ids)], attached, len(ids))

        class Calls:
            """Everything in one call, one condition at a time."""

            out_of_memory = ()

            def __init__(self, sigma: Tensor) -> None:
                self.sigma = sigma

            def __call__(self, x, ids, *, replaced=None, grid=1, mixing=True, source=False, as_source=False) -> Tensor:
                return rows(x, self.sigma[:1].expand(len(x)), ids, replaced, mixing)

            def rows_at_once(self, x: Tensor, grid: int, wanted: int) -> int:
                return wanted or len(x)

        def denoise(x: Tensor, sigma: Tensor, frame_ids=None, sample_sigmas=None, **extra_args: Any) -> Tensor:
            if plan is None or sample_sigmas is None:
                return rows(x, sigma, range(frames), None, True)
            if not runs:
                runs.append(plan.begin_run(RunFacts(frames, sample_sigmas.double(), whole=mixes), sites))
            return runs[0](x, float(sigma[0]), Calls(sigma))

        return denoise

    @staticmethod
    def dual(conditional, middle, unconditional, guidance: float, middle_guidance: float) -> Callable[..., Tensor]:
        """D_neg + middle_guidance (D_mid - D_neg) + guidance (D_pos - D_mid)."""
        base = guided(middle, unconditional, middle_guidance)

        def model(x: Tensor, sigma: Tensor, **extra_args: Any) -> Tensor:
            change = conditional(x, sigma, **extra_args) - middle(x, sigma, **extra_args)
            return base(x, sigma, **extra_args) + guidance * change

        return model

    def latent_picture(self, model: Any) -> None:
        """No colours are known here: previews are rough."""

    def progress(self, total: int, label: str) -> RecordedProgress:
        return RecordedProgress()

    def weights_folder(self) -> Path:
        return self.folder

    def out_of_memory(self) -> tuple[type[BaseException], ...]:
        return (MemoryError,)
