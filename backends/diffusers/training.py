"""A frozen float32 U-Net opened so that gradients reach what a method trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch

from ...methods.attachment import module_parameters
from ...methods.lora import factors
from .conditioning import added_of, text_of, with_image
from .control import residuals_of
from .denoiser import call_unet
from .patching import RECOMPUTE_TOKENS, Batch, attached
from .paths import locate

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...methods.attachment import Attachment
    from .model import DiffusersModel


class DiffusersTrainingView:
    """See ``backends.protocol.TrainingView``."""

    def __init__(self, model: DiffusersModel, parameters: Mapping[str, Tensor], conditioning: Any):
        self.parameters = parameters
        self._unet, self._schedule, self._conditioning = model.unet, model.schedule, conditioning

    def predict_noise(self, noisy: Tensor, timestep: Tensor, conditioning: Any = None) -> Tensor:
        """epsilon_theta(x_t, t, c). noisy: [frames, channels, h, w]; timestep: integer, [] or [frames]."""
        conditioning = self._conditioning if conditioning is None else conditioning
        text, timestep = text_of(conditioning, len(noisy)), timestep.expand(len(noisy))
        control, sigma = conditioning[0][1].get("control"), float(self._schedule.sigma(timestep[0]))
        added = added_of(self._unet, conditioning, len(noisy), tuple(noisy.shape[-2:]))
        with torch.no_grad():  # a ControlNet reads x and hints alone, and nothing of it is trained
            controlled = residuals_of(control, noisy, timestep, text, sigma, self._schedule, range(len(noisy)),
                                      added=added)
        with torch.enable_grad():
            image = with_image(self._unet, noisy, conditioning)
            return call_unet(self._unet, image, timestep, text, controlled, added)


def query_parameters(unet: nn.Module, attachments: Sequence[Attachment]) -> dict[str, Tensor]:
    """Zero differences of the query weights that the attachments tune, by
    ``queries.<site path>.<attn1|attn2>.to_q.weight``."""
    found = {}
    for located in locate(unet):
        path = located.site.path
        names = {name for a in attachments if path in a.sites for name in a.queries}
        for name in sorted(names):
            weight = located.block.get_submodule(name).weight
            delta = torch.zeros_like(weight, dtype=torch.float32, requires_grad=True)
            found[f"queries.{path}.{name}.weight"] = delta
    return found


@contextmanager
def _frozen(unet: nn.Module) -> Iterator[None]:
    """No weight of the U-Net asks for a gradient inside the ``with``."""
    asking = [p for p in unet.parameters() if p.requires_grad]
    for parameter in asking:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


@contextmanager
def open_for_training(model: DiffusersModel, attachments: Sequence[Attachment], conditioning: Any, frames: int,
           queries: bool, checkpointing: bool, lora: Mapping[str, Tensor]) -> Iterator[DiffusersTrainingView]:
    """See ``backends.protocol.Backend.training``.

    The patches stay for the whole ``with``, since backward recomputes checkpointed blocks.
    """
    unet = model.unet
    for attachment in attachments:
        for tree in attachment.trees:
            tree.to(unet.device)
    trained = query_parameters(unet, attachments) if queries else {}
    low_rank = {key: start.detach().to(unet.device, copy=True).requires_grad_() for key, start in lora.items()}
    new: dict[str, tuple[Tensor, ...]] = {key.removeprefix("queries."): (delta,) for key, delta in trained.items()}
    new |= {f"{name}.weight": (up, down) for name, (down, up) in factors(low_rank).items()}
    # A model that was tuned before keeps that; the new difference comes on top.
    deltas = {**model.query_deltas, **{path: _Trained(model.query_deltas.get(path), *of) for path, of in new.items()}}
    text_of(conditioning, frames)
    recompute_from = 0 if checkpointing else RECOMPUTE_TOKENS
    with _frozen(unet), attached(unet, attachments, deltas, Batch(frames=frames), recompute_from):
        yield DiffusersTrainingView(model, {**module_parameters(attachments), **trained, **low_rank}, conditioning)


class _Trained:
    """Earlier difference + product of the trained matrices, anew at every forward, since they change."""

    def __init__(self, earlier: Tensor | None, *matrices: Tensor):
        self.earlier, self.matrices = earlier, matrices

    def to(self, like: Tensor) -> Tensor:
        trained = reduce(torch.matmul, self.matrices).to(like)
        return trained if self.earlier is None else self.earlier.to(like) + trained
