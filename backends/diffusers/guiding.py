"""A GUIDER of the command line for clips that are edited in windows; see ``backends.protocol.Guiding``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...diffusion.samplers import STOCHASTIC
from .. import fingerprint
from .control import Control
from .encoders import Autoencoder
from .model import DiffusersModel

if TYPE_CHECKING:
    from torch import Tensor

NAMES = ("positive", "negative", "middle")


def model_of(guider: Any) -> Any:
    """``Guiding.guider_model``."""
    if not hasattr(guider, "positive"):
        raise TypeError(f"guider: expected a GUIDER such as CFGGuider's, but got {type(guider).__name__}.")
    return guider.model


def conditions_of(guider: Any) -> dict[str, list[Mapping[str, Any]]]:
    """``Guiding.guider_conditions``."""
    given = {name: getattr(guider, name) for name in NAMES}
    return {name: [{**values, "cross_attn": text} for text, values in entries]
            for name, entries in given.items() if entries is not None}  # fmt: skip


def changed(guider: Any, model: Any, change: Callable[[Mapping[str, Any]], dict[str, Any]]) -> Any:
    """``Guiding.changed_guider``."""
    conditions = {name: [[text, change(values)] for text, values in getattr(guider, name)]
                  for name in NAMES if getattr(guider, name) is not None}  # fmt: skip
    return replace(guider, model=model, **conditions)


def check(guider: Any, sampler: Any) -> None:
    """``Guiding.check_guided``."""
    if not isinstance(model_of(guider), DiffusersModel):
        raise ValueError("guider: its model is one of whole clips, in which frames depend on each other, so that it "
                         "cannot be edited in windows; edit as many frames as it takes in a graph of single nodes.")
    check_sampler(sampler)


def check_sampler(sampler: Any) -> None:
    """Raise ValueError where a sampler draws noise of its own."""
    if sampler in STOCHASTIC:
        raise ValueError(f"sampler: {sampler} draws new noise on its way, which would differ by window; use one that "
                         "draws none, such as euler or dpmpp_2m.")


def identity_of(guider: Any, sampler: Any, vae: Autoencoder, base: str) -> Any:
    """``Guiding.guided_identity``; ``base`` is the fingerprint of the model."""
    if not isinstance(sampler, str):
        return None
    attached = [[a.method, dict(a.config), sorted(a.sites),
                 [fingerprint.of_tensors(tree.state_dict().values()) for tree in a.trees]]
                for a in guider.model.attachments]  # fmt: skip
    conditions = {name: [{key: _plain(value) for key, value in entry.items()} for entry in entries]
                  for name, entries in conditions_of(guider).items()}  # fmt: skip
    return [base, attached, conditions, guider.cfg, guider.middle_cfg, sampler,
            fingerprint.of_tensors(vae.vae.state_dict().values()), str(guider.model.unet.device)]  # fmt: skip


def _plain(value: Any) -> Any:
    if isinstance(value, Control):
        return [[fingerprint.of_tensors(one.net.state_dict().values()), one.hint, one.strength, one.start, one.end]
                for one in value.chain()]
    return value


class _Given:
    """NOISE that is there already."""

    def __init__(self, noise: Tensor, seed: int) -> None:
        self.noise, self.seed = noise, seed

    def generate_noise(self, latent: dict[str, Any]) -> Tensor:
        """The host's call."""
        return self.noise


def run(guider: Any, noise: Tensor, samples: Tensor, sampler: Any, sigmas: Tensor, seed: int,
        step: Callable[[int], None]) -> Tensor:  # fmt: skip
    """``Guiding.guided``."""
    check_sampler(sampler)
    step(0)
    return guider.sample(_Given(noise, seed), sampler, sigmas, {"samples": samples})["samples"]


def encoded(vae: Any, images: Tensor) -> Tensor:
    """``Guiding.encoded``."""
    if not isinstance(vae, Autoencoder):
        raise ValueError("vae: is one of whole clips, in which frames depend on each other; use that of an image "
                         "model.")
    return vae.encode(images)
