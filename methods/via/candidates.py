"""VIA's root frame: one frame edited under several seeds, and the choice of the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..progress import Part
from .root import check_editor, size_of

if TYPE_CHECKING:
    from ...backends.protocol import Embedding, Progress, Sampling

#: PSNR outside the mask that counts as full preservation: an 8-bit picture's rounding is not seen above it.
FULL_PSNR = 40.0
#: PSNR of equal pictures, dB.
LEAST_MSE = 1e-10


def chosen_frame(frame: int, frames: int, seed: int) -> int:
    """The frame asked for; -1 draws one.

    Raises:
        ValueError: the clip has no such frame.
    """
    if frame >= frames:
        raise ValueError(f"frame: {frame}, but the clip has {frames} frames, counted from 0; use at most {frames - 1}.")
    return int(np.random.default_rng(seed).integers(frames)) if frame < 0 else frame


def with_picture(conditioning: Any, latent: Tensor | None) -> Any:
    """A CONDITIONING with this image beside the noise, or with none."""
    plain = [(text, {k: v for k, v in extra.items() if k != "concat_latent_image"}) for text, extra in conditioning]
    image = {} if latent is None else {"concat_latent_image": latent}
    return [[text, {**extra, **image}] for text, extra in plain]


def root_candidates(
    backend: Sampling,
    model: Any,
    vae: Any,
    frame: Tensor,
    positive: Any,
    negative: Any,
    seeds: Sequence[int],
    *,
    steps: int = 10,
    text_guidance: float = 7.5,
    image_guidance: float = 1.5,
    sampler: Any = "euler",
    progress: Progress | None = None,
) -> Tensor:
    """One frame edited once per seed, from pure noise, with InstructPix2Pix's two guidances.

    D = D(0, 0) + s_I (D(y, 0) - D(0, 0)) + s_T (D(y, c) - D(y, 0)),  y the frame's raw latent,
    c the instruction. Each candidate is a run of its own, so that its seed alone gives it again.

    Args:
        backend: of the MODEL.
        model: MODEL with an image input.
        vae: ``encode(IMAGE)`` and ``decode(LATENT samples)``.
        frame: IMAGE [1, height, width, 3].
        positive, negative: CONDITIONING of the instruction and of the empty prompt; images in
            them are replaced by the frame.
        seeds: one a candidate.
        steps: on the host's scheduler "normal".
        sampler: the host's SAMPLER, or a name.

    Returns:
        IMAGE [seeds, height, width, 3].

    Raises:
        TypeError: the MODEL takes no image.
    """
    check_editor(backend, model)
    latent = vae.encode(frame[..., :3])
    with_text, without_text, nothing = (
        with_picture(positive, latent), with_picture(negative, latent), with_picture(negative, None))  # fmt: skip
    schedule = backend.schedule(model)
    sigmas = schedule.normal_sigmas(steps)
    bar = progress or backend.progress(steps * len(seeds), "candidates")
    edits = []
    for number, seed in enumerate(seeds):
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
        start = backend.from_model_space(model, schedule.starting_noise(noise, float(sigmas[0])))
        samples = backend.sample(
            model, with_text, nothing, text_guidance, start, sigmas, Part(bar, number * steps), sampler=sampler,
            seed=seed, middle=without_text, middle_guidance=image_guidance,
        )  # fmt: skip
        edits.append(vae.decode(samples))
    return torch.cat(edits)


@dataclass(frozen=True)
class Scores:
    """What speaks for each candidate; all [candidates].

    Args:
        direction: cosine between the change of the picture and the change of the text, -1 .. 1.
        kept: preservation outside the mask, 0 .. 1.
        total: direction + weight * kept.
    """

    direction: Tensor
    kept: Tensor
    total: Tensor

    @property
    def best(self) -> int:
        return int(self.total.argmax())

    def lines(self) -> str:
        """One line a candidate, for a reader."""
        rows = zip(self.total.tolist(), self.direction.tolist(), self.kept.tolist())
        return "\n".join(f"{number}: {total:.4f} (direction {direction:.4f}, preservation {kept:.4f})"
                         for number, (total, direction, kept) in enumerate(rows, 1))


def scored(
    backend: Embedding,
    source: Tensor,
    candidates: Tensor,
    clip: Any,
    clip_vision: Any,
    captions: tuple[str, str],
    instruction: str,
    masks: Tensor | None,
    frame: int,
    weight: float,
) -> Scores:
    """``score`` with what a host's CLIP says of texts and pictures.

    Args:
        captions: before and after the edit; where both are empty, the change of the text is
            that from nothing to the instruction.
        masks: [1 or frames, height, width]; ``frame`` says whose is meant.

    Raises:
        ValueError: no CLIP, no text, a mask of another size, or encoders of two spaces.
    """
    if clip is None or clip_vision is None:
        raise ValueError("index: 0 chooses automatically, which needs clip and clip_vision; connect both, or give "
                         f"the number of a candidate, 1 to {len(candidates)}.")
    before, after = captions if any(captions) else ("", instruction)
    if not after or (any(captions) and not before):
        raise ValueError("instruction: nothing says what the edit should show; give it, or both captions.")
    text_direction = (backend.text_embedding(clip, after) - backend.text_embedding(clip, before))[0]
    embeddings = backend.image_embeddings(clip_vision, torch.cat([source[..., :3], candidates[..., :3]]))
    if embeddings.shape[-1] != text_direction.shape[-1]:
        raise ValueError(f"clip_vision: has {embeddings.shape[-1]} dimensions, but clip {text_direction.shape[-1]}; "
                         "load the two encoders of one CLIP.")
    mask = None if masks is None else mask_of(masks, frame, source)
    return score(source, candidates, embeddings[:1], embeddings[1:], text_direction, mask, weight)


def mask_of(masks: Tensor, frame: int, source: Tensor) -> Tensor:
    """The mask [height, width] of one frame.

    Raises:
        ValueError: there is none for this frame, or it has another size than the frame.
    """
    masks = masks if masks.ndim == 3 else masks[None]
    if len(masks) > 1 and frame >= len(masks):
        raise ValueError(f"frame: {frame}, but there are {len(masks)} masks; connect frame from Root Candidates.")
    mask = masks[frame if len(masks) > 1 else 0]
    if mask.shape != source.shape[1:3]:
        raise ValueError(f"mask: is {mask.shape[1]}x{mask.shape[0]}, but the frame {size_of(source)}; "
                         "make it from the same frames.")
    return mask


def score(
    source: Tensor,
    candidates: Tensor,
    source_embedding: Tensor,
    embeddings: Tensor,
    text_direction: Tensor,
    mask: Tensor | None = None,
    weight: float = 0.5,
) -> Scores:
    """Score candidates by where they moved and what they left alone.

    direction = cos(E_I(candidate) - E_I(source), E_T(after) - E_T(before)), CLIP directional
    similarity (Gal et al. 2022).

    Args:
        source: IMAGE [1, height, width, 3].
        candidates: IMAGE [n, height, width, 3].
        source_embedding, embeddings: CLIP image embeddings [1, d] and [n, d].
        text_direction: [d], of the same CLIP.
        mask: [height, width], 1 where the edit belongs; None looks at the whole picture.
        weight: of preservation against direction.
    """
    moved = embeddings.float() - source_embedding.float()
    direction = torch.cosine_similarity(moved, text_direction.float()[None], dim=-1)
    kept = preservation(source, candidates, mask)
    return Scores(direction, kept, direction + weight * kept)


def preservation(source: Tensor, candidates: Tensor, mask: Tensor | None) -> Tensor:
    """PSNR against the source outside the mask, as a share of ``FULL_PSNR``, at most 1: [n].

    Raises:
        ValueError: the mask leaves nothing outside.
    """
    squared = (candidates[..., :3].double() - source[..., :3].double()).square().mean(-1)
    outside = torch.ones_like(squared[0]) if mask is None else 1 - mask.double().clamp(0, 1)
    if outside.sum() < 1:
        raise ValueError("mask: covers the whole picture, so that nothing is left to preserve; leave it unconnected.")
    error = (squared * outside).sum((1, 2)) / outside.sum()
    return (-10 * torch.log10(error.clamp(min=LEAST_MSE)) / FULL_PSNR).clamp(0, 1).float()
