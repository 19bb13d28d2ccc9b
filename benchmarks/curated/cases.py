"""Clips and prompts of a manifest that ``steadyedit curate`` wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...curation.schema import EDITS, kept, read_manifest
from ...video.read import read_clip

if TYPE_CHECKING:
    from torch import Tensor

    from ..common.cases import World


@dataclass(frozen=True)
class Asked:
    """One edit of one clip, as the manifest has it.

    Args:
        number: of the edit in the manifest's order.
        name: the clip's, and the type of the edit.
        kind, difficulty: of the edit; nothing where the manifest leaves the difficulty open.
        caption, prompt: of the clip and of the edit.
        file: of the clip.
    """

    number: int
    name: str
    kind: str
    difficulty: str
    caption: str
    prompt: str
    file: Path


@dataclass(frozen=True)
class CuratedCase:
    """What ``ei2.methods.METHODS`` read of a case; there is no true answer.

    Args:
        frames: IMAGE of the clip.
        samples: its LATENT.
        source_text, target_text, empty: CONDITIONING of caption, prompt and "".
    """

    frames: Tensor
    samples: Tensor
    source_text: Any
    target_text: Any
    empty: Any


def asked_of(manifest: Path) -> list[Asked]:
    """Every edit of the clips that are kept, in the manifest's order.

    Raises:
        ValueError: no manifest, or none of its clips is kept and has a caption and a prompt.
    """
    if not manifest.is_file():
        raise ValueError(f"manifest: {manifest} is not there; give the manifest.csv that `curate` wrote.")
    found: list[Asked] = []
    for row in kept(read_manifest(manifest)):
        for kind in EDITS:
            if row["file"] and row["caption"] and (prompt := row[f"{kind}_prompt"]):
                found.append(Asked(len(found), f"{row['name']}: {kind}", kind, row[f"{kind}_difficulty"],
                                   row["caption"], prompt, manifest.parent / row["file"]))  # fmt: skip
    if not found:
        raise ValueError(f"manifest: {manifest} has no clip that is kept and has both a caption and a prompt; fill in "
                         "its cells.")
    return found


def cases(world: World, asked: list[Asked], frames: int, size: int) -> Iterator[CuratedCase]:
    """Their first frames, at the size of the models.

    Raises:
        ValueError: a clip is missing or shorter.
    """
    for edit in asked:
        if not edit.file.is_file():
            raise ValueError(f"manifest: {edit.file} is not there; run `curate` again, which makes it anew.")
        clip = read_clip(edit.file, count=frames, size=(size, size)).frames
        if len(clip) < frames:
            raise ValueError(f"manifest: {edit.file} has {len(clip)} frames; at least {frames} are needed.")
        texts = (world.conditioning(text) for text in (edit.caption, edit.prompt, ""))
        yield CuratedCase(clip, world.vae.encode(clip), *texts)
