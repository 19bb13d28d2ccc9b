"""Frames and words -> boxes, on either implementation of Grounding DINO."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ..boxes import Box, from_corners, inside
from ..segmentation.geometry import as_pixels, normalised

#: Sides in pixels to which pictures are scaled: the shorter one, and what the longer one must not exceed.
SHORTER, LONGER = 800, 1333
#: Words that the network reads at the most, in tokens.
LIMIT = 256


class Tokens(NamedTuple):
    """A caption as the network reads it: ids [1, t], and what the tokenizer gave beside them."""

    ids: Tensor
    fields: dict[str, Tensor]


class Network(Protocol):
    """One implementation of the network."""

    module: nn.Module
    tokenizer: Any

    def run(self, pixels: Tensor, caption: str, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """Pixels [n, 3, h, w], the same caption for all -> logits of the tokens [n, queries, 256]
        and boxes [n, queries, 4] as centre x, y, width, height in 0..1."""


def prepared_text(text: str) -> str:
    """Phrases as the network was trained to read them: lower case, a full stop after each.

    Raises:
        ValueError: there are no words.
    """
    phrases = [" ".join(part.split()) for part in re.split(r"[.\n]", text.lower())]
    if not any(phrases):
        raise ValueError("text: is empty; name what to look for, such as: dog . red ball")
    return " . ".join(filter(None, phrases)) + " ."


def scaled_size(height: int, width: int, shorter: int = SHORTER, longer: int = LONGER) -> tuple[int, int]:
    """(height, width) whose shorter side is ``shorter``, less where the longer one would exceed ``longer``.

    groundingdino's ``get_size_with_aspect_ratio``, with its rounding.
    """
    small, large = min(height, width), max(height, width)
    if large / small * shorter > longer:
        shorter = round(longer * small / large)
    if small == shorter:
        return height, width
    return (int(shorter * height / width), shorter) if width < height else (shorter, int(shorter * width / height))


class Detector:
    """Finds what a text names.

    Args:
        network: groundingdino's or transformers'.
        dtype: autocast to half precision on the way; float32 for none.
        shorter, longer: the sizes that pictures are scaled to.
    """

    def __init__(self, network: Network, dtype: torch.dtype = torch.float32, shorter: int = SHORTER,
                 longer: int = LONGER):
        self.network, self.module, self.dtype = network, network.module, dtype
        self.shorter, self.longer = shorter, longer
        self.module.eval().requires_grad_(False)
        # Feature maps of four scales, their fusion with the text, and the backbone's widest stage.
        self.frame_bytes = 2**30 * shorter * longer // (SHORTER * LONGER)

    def tokens(self, caption: str) -> Tokens:
        """A caption's tokens. Raises ValueError where it has more than the network reads."""
        fields = dict(self.network.tokenizer([caption], return_tensors="pt", return_token_type_ids=True))
        if fields["input_ids"].shape[1] > LIMIT:
            raise ValueError(f"text: has {fields['input_ids'].shape[1]} tokens, but Grounding DINO reads {LIMIT}; "
                             "name fewer things.")
        return Tokens(fields["input_ids"], fields)

    def pixels(self, frames: Tensor) -> Tensor:
        """IMAGE [n, h, w, 3] -> the network's input, resized as 8-bit pictures by Pillow as in its training."""
        height, width = scaled_size(frames.shape[1], frames.shape[2], self.shorter, self.longer)
        pictures = [as_pixels(frame) for frame in frames]
        return torch.stack([normalised(picture.resize((width, height), Image.BILINEAR)) for picture in pictures])

    @torch.no_grad()
    def detect(self, frames: Tensor, text: str, box_threshold: float = 0.35,
               text_threshold: float = 0.25) -> list[list[Box]]:
        """The boxes of each frame, best first.

        Args:
            frames: IMAGE [n, height, width, 3]; all n at once.
            text: phrases with full stops between them.
            box_threshold: least probability of a box's best token.
            text_threshold: least probability of the tokens that make its label.

        Returns:
            For each frame boxes in its pixels with ``label`` and ``score``.

        Raises:
            ValueError: no words, or too many.
        """
        caption = prepared_text(text)
        tokens = self.tokens(caption)
        device = next(self.module.parameters()).device
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            logits, boxes = self.network.run(self.pixels(frames).to(device), caption, tokens)
        size = tuple(frames.shape[1:3])
        return [self._boxes_of(*row, tokens, size, box_threshold, text_threshold)
                for row in zip(logits.float().sigmoid().cpu(), boxes.float().cpu())]

    def _boxes_of(self, chances: Tensor, boxes: Tensor, tokens: Tokens, size: tuple[int, int], box_threshold: float,
                  text_threshold: float) -> list[Box]:
        """One frame's: chances [queries, 256], boxes [queries, 4]."""
        scores = chances.max(1).values
        found = []
        for index in scores.argsort(descending=True).tolist():
            if scores[index] <= box_threshold:
                break
            x, y, width, height = (boxes[index] * torch.tensor([size[1], size[0]] * 2)).tolist()
            corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
            label = self.words(chances[index] > text_threshold, tokens.ids[0])
            box = inside(from_corners(corners, label=label, score=scores[index].item()), *size)
            found += [box] if box else []
        return found

    def words(self, chosen: Tensor, ids: Tensor) -> str:
        """The phrase of the tokens that are chosen [256], without the ends and full stops."""
        places = [i for i in chosen.nonzero()[:, 0].tolist() if 0 < i < len(ids) - 1]
        text = self.network.tokenizer.decode([int(ids[i]) for i in places])
        return " ".join(text.replace(".", " ").split())


def draw_boxes(frames: Tensor, boxes: list[list[Box]]) -> Tensor:
    """An IMAGE batch with boxes and their labels on it, for a preview."""
    from PIL import ImageDraw

    shown = []
    for frame, row in zip(frames, boxes):
        picture = as_pixels(frame)
        draw = ImageDraw.Draw(picture)
        for number, box in enumerate(row):
            colour = COLOURS[number % len(COLOURS)]
            x, y = box["x"], box["y"]
            draw.rectangle((x, y, x + box["width"], y + box["height"]), outline=colour,
                           width=max(1, picture.width // 200))
            if text := f"{box.get('label', '')} {box['score']:.2f}".strip() if "score" in box else box.get("label"):
                draw.rectangle(draw.textbbox((x + 2, y + 1), text), fill=colour)
                draw.text((x + 2, y + 1), text, fill="black")
        shown.append(torch.from_numpy(np.array(picture)))
    return torch.stack(shown).float() / 255


COLOURS = ("#ffd400", "#00d0ff", "#ff5fa2", "#7cff4f", "#ff8a00", "#b48bff")
