"""What an instruction editor of today (Qwen-Image-Edit, FLUX Kontext) is given for each frame of a clip.

Such editors read the picture that they edit as reference latents behind their own tokens, and some of them as picture
tokens inside of the text too. Text encoders take one picture a call, and some VAEs make one video of a batch: so each
frame is encoded by itself, and becomes a row of one CONDITIONING.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ...backends.protocol import PictureEditor

#: Where a condition keeps how it is made for other frames.
MAKER = "steadyedit_editor_clip"
REFERENCES, METHOD = "reference_latents", "reference_latents_method"
#: What is said where a network does not look at them, of an input.
NOT_READ = ("{}: holds reference latents, which this model does not read; load Qwen-Image-Edit, FLUX Kontext or "
            "FLUX.2, or give the model a CONDITIONING without them.")
#: What a condition can hold a row of for each frame.
ROWS = ("pooled_output", "attention_mask")


@dataclass
class EditorClip:
    """An instruction and how a clip's frames are shown with it.

    Args:
        editor: text encoder and VAE of the editor.
        texts: the instruction, and what the edit shall not show.
        own_size: references at the frames' own size; otherwise at the size that the editor was trained at.
        beside: IMAGE [1, height, width, 3] that is shown beside every frame, as a second picture; None shows none.
    """

    editor: PictureEditor
    texts: tuple[str, str]
    own_size: bool = True
    beside: Tensor | None = None
    _last: tuple[Tensor, ClipConditions] | None = field(default=None, init=False, repr=False)

    def of(self, frames: Tensor, step: Callable[[], None]) -> ClipConditions:
        """Conditions and latents of frames.

        Args:
            frames: IMAGE [frames, height, width, 3] in 0..1.
            step: called ``steps`` times; raises where the user cancelled.

        Raises:
            ValueError: the text encoder gives frames other numbers of conditions or tokens.
        """
        if self._last is None or self._last[0] is not frames:
            self._last = frames, self._made(frames, step)
        return self._last[1]

    @property
    def steps(self) -> int:
        """Steps a frame: a text for each prompt, a latent for each picture."""
        return 3

    def _made(self, frames: Tensor, step: Callable[[], None]) -> ClipConditions:
        # All texts first: encoder and VAE need not be in memory at the same time.
        prompts = [self._texts(text, frames, step) for text in self.texts]
        latents, references = [], []
        beside = None if self.beside is None else self._reference(self.beside)
        for frame in frames.split(1):
            latents.append(self.editor.latent(frame))
            references.append(latents[-1] if self.own_size else self._reference(frame))
            step()
        held = [torch.cat(references), *([] if beside is None else [beside])]
        return ClipConditions([self._entries(prompt, held, i) for i, prompt in enumerate(prompts)],
                              torch.cat(latents))  # fmt: skip

    def _texts(self, text: str, frames: Tensor, step: Callable[[], None]) -> list[list[Any]]:
        beside = [] if self.beside is None else [self.beside]
        if not self.editor.reads_pictures:
            prompt = self.editor.prompt(text, [])
            for _ in frames:
                step()
            return prompt
        rows = []
        for frame in frames.split(1):
            rows.append(self.editor.prompt(text, [frame, *beside]))
            step()
        return in_rows(rows)

    def _reference(self, picture: Tensor) -> Tensor:
        return self.editor.latent(picture if self.own_size else self.editor.at_trained_size(picture))

    def _entries(self, prompt: Sequence[Any], references: list[Tensor], which: int) -> list[list[Any]]:
        return [[text, {**values, REFERENCES: references, MAKER: FrameMaker(self, which, entry, text)}]
                for entry, (text, values) in enumerate(prompt)]  # fmt: skip


@dataclass(frozen=True)
class ClipConditions:
    """Of a clip: CONDITIONING of both prompts, and latents [frames, channels, (1,) height, width]."""

    prompts: Sequence[Any]
    latents: Tensor


@dataclass(frozen=True, eq=False)
class FrameMaker:
    """How one entry of a CONDITIONING is made for other frames.

    Args:
        clip: its instruction.
        which, entry: the prompt, and the entry of it.
        text: as it was made, so that a change by another node is seen.
    """

    clip: EditorClip
    which: int
    entry: int
    text: Tensor

    def __deepcopy__(self, memo: dict) -> FrameMaker:
        # It holds networks.
        return self

    def content(self) -> list[Any]:
        """What decides its conditions, beside the condition that it lies in."""
        return [self.clip.texts[self.which], self.clip.own_size, self.clip.beside]

    def for_frames(self, condition: Mapping[str, Any], frames: Tensor, step: Callable[[], None],
                   name: str = "guider") -> dict[str, Any]:  # fmt: skip
        """The condition with its text's pictures and its first references those of ``frames``; what other nodes added
        stays. ``name`` is the input that it came by.

        Raises:
            ValueError: another node changed the text or the references.
        """
        given, references = condition.get("cross_attn"), condition.get(REFERENCES) or ()
        if given is not None and not torch.equal(given, self.text):
            raise ValueError(f"{name}: a node behind Editor Conditioning changed its text (Conditioning Zero Out or "
                             "Average, for one), which can not be done again for every frame; remove it, and leave "
                             "the negative empty instead.")
        text, values = self.clip.of(frames, step).prompts[self.which][self.entry]
        if len(references) < len(values[REFERENCES]):
            raise ValueError(f"{name}: a node behind Editor Conditioning took its references away; remove it.")
        return {**condition, **values, "cross_attn": text,
                REFERENCES: [*values[REFERENCES], *references[len(values[REFERENCES]) :]]}  # fmt: skip


def sides_for(picture: Tensor, pixels: int, unit: int) -> tuple[int, int]:
    """Width and height in about the shape of an IMAGE, with so many pixels and sides that are multiples of ``unit``."""
    height, width = picture.shape[1:3]
    scale = math.sqrt(pixels / (width * height))
    return round(width * scale / unit) * unit, round(height * scale / unit) * unit


def in_rows(encoded: Sequence[Sequence[Any]]) -> list[list[Any]]:
    """One CONDITIONING with a row for each that is given.

    Raises:
        ValueError: they hold other numbers of conditions, or of tokens, or something that is neither equal nor a
            tensor of one row.
    """
    if len({len(conditioning) for conditioning in encoded}) > 1:
        raise ValueError("clip: gives some frames more conditions than others (scheduled hooks); use a CLIP without "
                         "them.")
    entries = []
    for held in zip(*encoded, strict=True):
        texts, values = [text for text, _ in held], [extra for _, extra in held]
        if len({text.shape for text in texts}) > 1:
            raise ValueError("images: the frames come to different numbers of tokens in the text; bring them to one "
                             "size, by Load Frames or Upscale Image.")
        extra = {key: value for key, value in values[0].items() if key not in ROWS or not _tensor(value)}
        for key in ROWS:
            rows = [row.get(key) for row in values]
            if any(_tensor(row) for row in rows):
                extra[key] = torch.cat([_row(row, held[0][0]) for row in rows])
        entries.append([torch.cat(texts), extra])
    return entries


def _tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def _row(mask: Any, text: Tensor) -> Tensor:
    """A mask that the encoder left out, since it hides nothing."""
    return mask if _tensor(mask) else torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
