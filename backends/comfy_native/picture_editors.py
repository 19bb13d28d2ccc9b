"""Text encoder and VAE of the host's instruction editors: how their own nodes show a picture to them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.utils

from ...methods.via.editor_clip import sides_for
from .toy import FLOW_EDITOR

if TYPE_CHECKING:
    from torch import Tensor

QWEN, KONTEXT, FLUX2, TOY = "Qwen-Image-Edit", "FLUX Kontext", "FLUX.2", "the Toy Flow Editor"
#: Families by the encoders that their tokenizer writes for.
ENCODERS = {frozenset({"qwen25_7b"}): QWEN, frozenset({"l", "t5xxl"}): KONTEXT, frozenset({"qwen3_4b"}): FLUX2,
            frozenset({"qwen3_8b"}): FLUX2, frozenset({"mistral3_24b"}): FLUX2,
            frozenset({FLOW_EDITOR}): TOY}  # fmt: skip
#: What each family's VAE makes: channels, and whether it is one of videos.
VAES = {QWEN: (16, True), KONTEXT: (16, False), FLUX2: (128, False), TOY: (4, False)}
#: Pixels of a reference as the editors were trained.
MEGAPIXEL, TOY_PIXELS = 1024 * 1024, 128 * 128


@dataclass(frozen=True)
class HostPictureEditor:
    """``PictureEditor`` on a CLIP and a VAE of the host's."""

    family: str
    clip: Any
    vae: Any

    @property
    def reads_pictures(self) -> bool:
        return self.family == QWEN

    @property
    def one_picture(self) -> str:
        return self.family if self.family == TOY else ""

    def prompt(self, text: str, pictures: Sequence[Tensor]) -> list[list[Any]]:
        if self.reads_pictures:
            from comfy_extras.nodes_qwen import TextEncodeQwenImageEditPlus

            return TextEncodeQwenImageEditPlus.execute(self.clip, text, None, *pictures).args[0]
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def at_trained_size(self, picture: Tensor) -> Tensor:
        if self.family == KONTEXT:
            from comfy_extras.nodes_flux import FluxKontextImageScale

            return FluxKontextImageScale.execute(picture).args[0]
        # TextEncodeQwenImageEditPlus does this where it is given a VAE, and gives nobody the picture.
        pixels, unit = TOY_PIXELS if self.family == TOY else MEGAPIXEL, 8 if self.family == QWEN else 16
        sides = sides_for(picture, pixels, unit)
        return comfy.utils.common_upscale(picture.movedim(-1, 1), *sides, "area", "disabled").movedim(1, -1)

    def latent(self, picture: Tensor) -> Tensor:
        return self.vae.encode(picture[..., :3])


def picture_editor(clip: Any, vae: Any) -> HostPictureEditor:
    """``Pictures.picture_editor``."""
    tokenize = getattr(clip, "tokenize", None)
    if tokenize is None or not hasattr(vae, "encode"):
        name, given = ("clip", clip) if tokenize is None else ("vae", vae)
        raise TypeError(f"{name}: expected that of an instruction editor, but got a {type(given).__name__}.")
    names = frozenset(tokenize(""))
    family = ENCODERS.get(names)
    if family is None:
        raise TypeError(f"clip: its text encoder is {' and '.join(sorted(names))}, but this needs that of "
                        "Qwen-Image-Edit (qwen_2.5_vl_7b), FLUX Kontext (clip_l and t5xxl) or FLUX.2; load one of "
                        "those, with the type that belongs to it.")
    channels, video = VAES[family]
    held = getattr(vae, "latent_channels", channels), getattr(vae, "latent_dim", 2) == 3
    if held != (channels, video):
        kind = {True: "a video VAE", False: "an image VAE"}
        raise ValueError(f"vae: is {kind[held[1]]} of {held[0]} channels, but {family}, whose text encoder is "
                         f"connected, needs {kind[video]} of {channels}; load the VAE of that editor.")
    return HostPictureEditor(family, clip, vae)

