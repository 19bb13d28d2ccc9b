"""What is edited: held-out toy clips with their true answers, and the models that edit and judge."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ...toyworld import Clip, Edit


@dataclass(frozen=True)
class Case:
    """One edit of one clip.

    Args:
        name: number, the source's caption and the instruction; one of a kind.
        edit: what is asked for.
        source, truth: the rendered clip, and the rendered answer.
        samples: LATENT of the source.
        encode: CONDITIONING of a prompt. Called for what a bench asks for alone: a text encoder for instructions need
            not take a caption of three objects.
    """

    name: str
    edit: Edit
    source: Clip
    truth: Clip
    samples: Tensor
    encode: Callable[[str], Any]

    @cached_property
    def source_text(self) -> Any:
        """CONDITIONING of the source's caption."""
        return self.encode(self.source.caption)

    @cached_property
    def target_text(self) -> Any:
        """CONDITIONING of the answer's caption."""
        return self.encode(self.truth.caption)

    @cached_property
    def empty(self) -> Any:
        """CONDITIONING of ""."""
        return self.encode("")


@dataclass(frozen=True)
class World:
    """The toy models: what edits (backend, model, text, vae) and what judges (judge, clip)."""

    backend: Any
    model: Any
    text: Any
    vae: Any
    judge: nn.Module
    clip: nn.Module

    @classmethod
    def load(cls, editor: bool = False, video: bool = False) -> World:
        """The committed weights, on the diffusers backend.

        Args:
            editor: the model that follows instructions instead of captions.
            video: the one that continues a first frame.

        Raises:
            FileNotFoundError, ValueError: weights are missing or not those of the record.
        """
        from ...backends.diffusers.video import DiffusersVideoBackend
        from ...toyworld import models

        backend = quiet_backend()
        load = backend.load_toy_video if video else backend.load_toy_editor if editor else backend.load_toy
        model, text, vae = load()
        if video:
            backend = quiet_backend(DiffusersVideoBackend)
        return cls(backend, model, text, vae, models.load_classifier(), models.load_clip())

    def conditioning(self, text: str) -> Any:
        """CONDITIONING of a prompt."""
        return self.text.encode_from_tokens_scheduled(self.text.tokenize(text))

    def cases(self, count: int, frames: int, size: int, only: Collection[int] | None = None,
              split: str = "test") -> Iterator[Case]:  # fmt: skip
        """The first ``count`` held-out edits, the same in every run, or ``only`` those of them."""
        from ...toyworld import apply_edit, heldout_edits, render

        for index, (scene, edit) in enumerate(heldout_edits(count, frames, size, split)):
            if only is not None and index not in only:
                continue
            source, truth = render(scene), render(apply_edit(scene, edit))
            name = f"{index:02d} {source.caption}: {edit.instruction}"
            yield Case(name, edit, source, truth, self.vae.encode(source.frames), self.conditioning)

    @torch.no_grad()
    def embed(self, frames: Tensor, prompt: str) -> tuple[Tensor, Tensor]:
        """CLIP embeddings of frames [F, H, W, 3] and of a prompt: [F, D], [D]."""
        from ...toyworld.models import tokenize
        from ...toyworld.models.classifier import crop_resize

        pictures = self.clip.vision_model(pixel_values=crop_resize(frames)).pooler_output
        words = self.clip.text_model(input_ids=tokenize([prompt])).pooler_output
        return self.clip.visual_projection(pictures), self.clip.text_projection(words)[0]


def quiet_backend(kind: type | None = None) -> Any:
    """The diffusers backend, or one of another ``kind``, with bars that vanish: the benchmark's own bar stays."""
    from tqdm import tqdm

    from ...backends.diffusers import DiffusersBackend

    class Bar:
        def __init__(self, total: int, label: str):
            self.bar = tqdm(total=total, desc=f"  {label}", leave=False, position=1, disable=None)

        def update(self, value: int, preview: Any = None, **numbers: float) -> None:
            """See ``backends.protocol.Progress``."""
            if self.bar.disable:  # no terminal: it keeps no count
                return
            self.bar.update(value - self.bar.n)
            if value >= self.bar.total:
                self.bar.close()

    base: Any = kind or DiffusersBackend

    class QuietBackend(base):
        def progress(self, total: int, label: str) -> Bar:
            return Bar(total, label)

    return QuietBackend()
