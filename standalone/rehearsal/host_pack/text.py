"""A stand-in for text encoders of billions of weights: every word has its own random vector of the true width."""

from __future__ import annotations

import zlib
from typing import Any

import torch

#: Kind of CLIPLoader and DualCLIPLoader -> width, tokens that are filled up to (0: as many as there are), pooled width.
KINDS = {"wan": (4096, 512, 0), "hunyuan_video": (4096, 0, 768), "qwen_image": (3584, 0, 0)}


def vector(word: str, width: int) -> torch.Tensor:
    """The same for the same word, on every machine."""
    return torch.randn(width, generator=torch.Generator().manual_seed(zlib.crc32(word.encode())))


class StandInText:
    """What CLIPTextEncode and TextEncodeHunyuanVideo_ImageToVideo call of a CLIP."""

    def __init__(self, kind: str):
        if kind not in KINDS:
            raise ValueError(f"kind: the rehearsal has no stand-in for text encoders of '{kind}'; it has "
                             f"{', '.join(KINDS)}.")
        self.kind = kind

    def clone(self) -> StandInText:
        return StandInText(self.kind)

    def tokenize(self, text: str, image_embeds: Any = None, image_interleave: int = 1, **_: Any) -> dict[str, Any]:
        """Words, and the picture's tokens as the host interleaves them."""
        picture = None if image_embeds is None else image_embeds[0, ::image_interleave].float().cpu()
        return {"words": ["<s>", *text.split(), "</s>"], "picture": picture}

    def encode_from_tokens_scheduled(self, tokens: dict[str, Any], **_: Any) -> list:
        width, length, pooled = KINDS[self.kind]
        rows = torch.stack([vector(word, width) for word in tokens["words"]])
        if tokens["picture"] is not None:
            rows = torch.cat([tokens["picture"], rows])
        if length:
            rows = torch.cat([rows, torch.zeros(max(0, length - len(rows)), width)])[:length]
        summary = vector(" ".join(tokens["words"]), pooled)[None] if pooled else None
        return [[rows[None], {"pooled_output": summary}]]
