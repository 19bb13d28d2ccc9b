"""What the flow-matching editor learns from: stills that differ in one thing, and the order that leads to each.

A family is a scene and a few answers to edits of one kind. Every ordered pair of its pictures of which the second is
the answer to an edit of the first is a sample, so that four pictures, rendered and encoded once, give up to twelve.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ... import models
from ...world.edits import Edit, apply_edit, edits_of, is_clear
from ...world.grammar import TEXTURES
from ...world.rendering import render_still
from ...world.scene import Scene, sample_scene
from ..data import CACHE
from ..loop import save_atomically
from .unet import SCALE, encoder_digest

#: scenes of a chunk, and answers of a family beside its source
SCENES, ANSWERS = 250, 3
#: kinds of the families, in turn: what is harder to learn comes more often
TURNS = ("colour", "shape", "texture", "background", "shape", "texture", "style", "colour")
#: those of the second stage, on scenes from FORMS_FROM on: mostly what the first one left wrong; and from STYLES_FROM
#: on, of which a family gives a quarter of the others' pairs, since no style leads to another
FORMS = ("shape", "texture", "shape", "colour", "shape", "texture", "shape", "background",
         "shape", "texture", "shape", "colour", "shape", "texture", "shape", "style")
FORMS_FROM, STYLES_FROM = 40_000, 50_000
#: one scene of so many keeps its own style; the others come without, so that they have every kind of edit
STYLED = 7


def family(index: int) -> tuple[list[Scene], list[tuple[int, int, str]]]:
    """Scenes, and (source, answer, instruction) for every pair of them that an edit leads through; both empty where
    scene `index` is not clear or has no edit of its kind."""
    style: dict[str, Any] = {} if index % STYLED == 0 else {"style": "none"}
    scene = sample_scene(index, "train", frames=32, **style)
    turns = TURNS if index < FORMS_FROM else FORMS if index < STYLES_FROM else ("style",)
    options = [edit for edit in edits_of(scene) if edit.kind == turns[index % len(turns)]]
    if not options or not is_clear(scene):
        return [], []
    chosen = np.random.default_rng(index).permutation(len(options))[:ANSWERS]
    scenes = [scene, *(apply_edit(scene, options[i]) for i in chosen)]
    return scenes, [pair for i in range(len(scenes)) for pair in pairs_from(i, scenes, options[0].kind)]


def pairs_from(i: int, scenes: list[Scene], kind: str) -> Iterator[tuple[int, int, str]]:
    """(i, answer, instruction) for every scene that an edit of scene i makes."""
    edits: list[Edit] = [edit for edit in edits_of(scenes[i]) if edit.kind == kind]
    for edit in edits:
        answer = apply_edit(scenes[i], edit)
        if answer in scenes:
            yield i, scenes.index(answer), edit.instruction


def kind_of(instruction: str) -> str:
    """The kind of an `Edit`, by its instruction."""
    first, *_, last = instruction.split()
    if first == "make":
        return "texture" if last in TEXTURES else "colour"
    return {"turn": "shape", "replace": "background"}.get(first, "style")


@torch.no_grad()
def pairs_chunk(vae, number: int) -> dict:
    """Scaled mean latents [N,4,16,16] fp16 of a chunk's pictures, and its pairs: rows of source and answer [P,2] and
    the instructions; cached on disk under the encoder's digest, so that no other encoder meets them."""
    path = CACHE / f"flow_pairs_{encoder_digest(vae)}_{number:03d}.pt"
    if not path.exists():
        pages: list[np.ndarray] = []
        rows, words = [], []
        for index in range(number * SCENES, (number + 1) * SCENES):
            scenes, pairs = family(index)
            rows += [(source + len(pages), answer + len(pages)) for source, answer, _ in pairs]
            words += [instruction for *_, instruction in pairs]
            pages += [render_still(scene, index * 7 % 32) for scene in scenes]
        pictures = torch.from_numpy(np.stack(pages)).permute(0, 3, 1, 2)
        latents = [vae.encode(few.float() / 127.5 - 1).latent_dist.mean * SCALE for few in pictures.split(8)]
        save_atomically({"latents": torch.cat(latents).half(), "rows": torch.tensor(rows), "words": words}, path)
    return torch.load(path, weights_only=True)


def prepare(chunks: int, start: int = 0) -> None:
    """Encode ahead of a training that runs elsewhere."""
    vae = models.load_vae()
    for number in range(start, chunks):
        pairs_chunk(vae, number)
