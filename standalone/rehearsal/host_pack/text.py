"""A stand-in for text encoders of billions of weights: every word has its own random vector of the true width."""

from __future__ import annotations

import zlib
from typing import Any

import torch

#: Kind of CLIPLoader and DualCLIPLoader -> width, tokens that are filled up to (0: as many as there are), pooled width.
KINDS = {"wan": (4096, 512, 0), "hunyuan_video": (4096, 0, 768), "qwen_image": (3584, 0, 0), "flux": (4096, 0, 768)}
#: What its tokenizer calls its tokens, by which a family is known.
NAMES = {"qwen_image": ("qwen25_7b",), "flux": ("l", "t5xxl")}
#: Colours that a picture is told by: of so many parts a side.
PARTS = 4


def vector(word: str, width: int) -> torch.Tensor:
    """The same for the same word, on every machine."""
    return torch.randn(width, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


class StandInText:
    """What CLIPTextEncode, TextEncodeHunyuanVideo_ImageToVideo and TextEncodeQwenImageEditPlus call of a CLIP."""

    def __init__(self, kind: str):
        if kind not in KINDS:
            raise ValueError(f"kind: the rehearsal has no stand-in for text encoders of '{kind}'; it has "
                             f"{', '.join(KINDS)}.")
        self.kind = kind

    def clone(self) -> StandInText:
        return StandInText(self.kind)

    def tokenize(self, text: str, image_embeds: Any = None, image_interleave: int = 1, images: Any = (),
                 **_: Any) -> dict[str, Any]:
        """Words, and the picture's tokens as the host interleaves them, or its pictures' own."""
        picture = None if image_embeds is None else image_embeds[0, ::image_interleave].float().cpu()
        if len(images):
            picture = torch.cat([self.seen(image) for image in images])
        tokens = {"words": ["<s>", *text.split(), "</s>"], "picture": picture}
        return dict.fromkeys(NAMES.get(self.kind, ("words",)), tokens)

    def seen(self, image: torch.Tensor) -> torch.Tensor:
        """Tokens of a picture: the colours of its parts, each a direction of its own."""
        parts = torch.nn.functional.adaptive_avg_pool2d(image.movedim(-1, 1).float().cpu(), PARTS)[0].flatten(1).T
        return parts @ torch.stack([vector(colour, KINDS[self.kind][0]) for colour in ("red", "green", "blue")])

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any], **_: Any) -> list:
        width, length, pooled = KINDS[self.kind]
        tokens = next(iter(tokens.values()))
        rows = torch.stack([vector(word, width) for word in tokens["words"]])
        if tokens["picture"] is not None:
            rows = torch.cat([tokens["picture"], rows])
        if length:
            rows = torch.cat([rows, torch.zeros(max(0, length - len(rows)), width)])[:length]
        summary = vector(" ".join(tokens["words"]), pooled)[None] if pooled else None
        return [[rows[None], {"pooled_output": summary}]]
