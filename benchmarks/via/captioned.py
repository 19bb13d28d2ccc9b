"""Rivals of VIA that are told captions: the rows of `bench ei2` on the toy text-to-image model."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from ..common.cases import World
from ..common.clock import timed
from ..ei2.methods import edit as edit_by_captions

if TYPE_CHECKING:
    from ...toyworld import Edit
    from ..common.cases import Case
    from ..common.edited import Edited, Settings

#: Slugs there and here. Prompt-to-Prompt is Video-P2P's: the words that change are looked up in the captions.
CAPTIONED, BY_WORDS = ("tune-a-video", "tune-a-video-per-frame", "video-p2p"), ("video-p2p",)
#: What captions do not say: an edit to it only leaves a word out.
UNSPOKEN = "plain"


@cache
def caption_world() -> World:
    """The committed text-to-image model, loaded where it is needed."""
    return World.load()


def words_express(edit: Edit) -> bool:
    """Whether the caption after the edit has a word for it."""
    return edit.target != UNSPOKEN


def edited_by_captions(case: Case, method: str, settings: Settings, seed: int) -> tuple[Edited, float]:
    """Run a row of `bench ei2` on the clip with its captions before and after the edit; see ``methods.edit``.

    The seconds of a frame are without the tuning, whose share of the processor's time is taken for that of the wall's.
    """
    world = caption_world()
    captioned = replace(case, samples=world.vae.encode(case.source.frames), encode=world.conditioning)
    with timed() as seconds:
        edited = edit_by_captions(world, captioned, method, settings, seed)
    share = edited.infer_seconds / max(seconds.wall, edited.infer_seconds)
    return edited, seconds.own * share / len(edited.frames)
