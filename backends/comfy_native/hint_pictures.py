"""A ControlNet's hints, encoded picture by picture: a video's VAE, such as Qwen-Image's, makes one clip of a batch."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase
    from torch import Tensor


class PictureByPicture:
    """A VAE of the host's, to a ControlNet; each picture is a row of what it gives.

    Args:
        vae: the host's.
        names: of the pictures that it will be given, in their order; None: they have none, and nothing is kept.
        kept: what was made of pictures of a name and size.
    """

    def __init__(self, vae: Any, names: Sequence[Hashable] | None = None,
                 kept: MutableMapping[Hashable, Tensor] | None = None) -> None:
        self.vae, self.names, self.kept = vae, names, {} if kept is None else kept

    def __getattr__(self, name: str) -> Any:
        return getattr(self.vae, name)

    def encode(self, pixels: Tensor) -> Tensor:
        """IMAGE [n, height, width, 3] -> [n, channels, (1,) h, w]."""
        if self.names is None or len(self.names) != len(pixels):
            return torch.cat([self.vae.encode(picture) for picture in pixels.split(1)])
        found = []
        for name, picture in zip(self.names, pixels.split(1), strict=True):
            key = name, picture.shape
            if key not in self.kept:
                self.kept[key] = self.vae.encode(picture)
            found.append(self.kept[key])
        return torch.cat(found)


def controls_of(branches: Iterable[Iterable[Mapping[str, Any]] | None]) -> list[ControlBase]:
    """Every ControlNet of the conditions once, with those chained before it and its copies on other devices."""
    found: dict[int, ControlBase] = {}
    for condition in (c for conditions in branches for c in conditions or ()):
        control = condition.get("control")
        while control is not None:
            for instance in (control, *getattr(control, "multigpu_clones", {}).values()):
                found[id(instance)] = instance
            control = getattr(control, "previous_controlnet", None)
    return list(found.values())


@contextmanager
def encoded_once(control: ControlBase, names: Sequence[Hashable] | None,
                 kept: MutableMapping[Hashable, Tensor] | None = None) -> Iterator[None]:
    """A ControlNet that encodes its hints one by one, those of the same name once for all who share ``kept``, inside
    the ``with``; as it is, where it encodes none."""
    vae = getattr(control, "vae", None)
    if vae is None:
        yield
        return
    try:
        control.vae = PictureByPicture(vae, names, kept)
        yield
    finally:
        control.vae = vae


@contextmanager
def picture_hints(conditions: Mapping[str, Iterable[Mapping[str, Any]]], latent: Tensor) -> Iterator[None]:
    """ControlNets of conditions that encode their hints one by one where the rows of a LATENT are pictures in a video's
    form, as Qwen-Image's, inside the ``with``."""
    pictures = latent.ndim == 5 and latent.shape[0] > 1 and latent.shape[2] == 1
    with ExitStack() as stack:
        for control in controls_of(conditions.values()) if pictures else ():
            stack.enter_context(encoded_once(control, None))
        yield
