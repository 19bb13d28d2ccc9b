"""LoRA-Edit in windows: what each window is given, what is handed on, and that no drift adds up."""

from __future__ import annotations

import pytest
import torch
from steadyedit.methods.lora_edit.clips import clip_ranges
from steadyedit.methods.lora_edit.window_chain import edit_in_windows
from steadyedit.vision.colour import brought_back
from tolerances import FLOAT32_STEP

FRAMES, SIDE = 13, 16


def video():
    return 0.25 + 0.5 * torch.rand(FRAMES, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(1))


def generate():
    where = torch.zeros(FRAMES, SIDE, SIDE)
    where[1:, 4:8, 4:8] = 1
    return where


@pytest.mark.parametrize("frames, length, overlap, expected", [
    (49, 13, 1, [(0, 13), (12, 25), (24, 37), (36, 49)]), (49, 13, 5, [(0, 13), (8, 21), (16, 29), (24, 37), (32, 45),
                                                                     (36, 49)]),
    (13, 13, 1, [(0, 13)]), (17, 13, 1, [(0, 13), (4, 17)]), (21, 13, 5, [(0, 13), (8, 21)]),
])  # fmt: skip
def test_windows_cover_the_clip_and_begin_where_latents_do(frames, length, overlap, expected):
    assert [(span.start, span.stop) for span in clip_ranges(frames, length, overlap)] == expected
    assert all(start % 4 == 0 for start, _ in expected)


def test_an_overlap_that_leaves_nothing_is_refused():
    with pytest.raises(ValueError, match="overlap: expected fewer than the 5 frames"):
        clip_ranges(13, 5, 5)
    with pytest.raises(ValueError, match="overlap"):
        clip_ranges(13, 9, 2)


@pytest.mark.parametrize("overlap", [1, 5])
def test_a_window_goes_on_from_the_last_frames_of_the_one_before(overlap):
    """The edit writes each window's number into what it generates."""
    clip, where, first, seen = video(), generate(), torch.ones(1, SIDE, SIDE, 3), []
    spans = clip_ranges(FRAMES, 9, overlap)

    def edit(span, given, here):
        seen.append((given.clone(), here.clone()))
        return torch.where(here[..., None] > 0, torch.full_like(given, 0.1 * len(seen)), given)

    out = edit_in_windows(clip, where, first, spans, edit)
    assert out.shape == clip.shape and torch.equal(out[:1], first)
    kept = spans[0].stop - spans[1].start
    given, here = seen[1]
    assert torch.equal(given[:kept], out[spans[1].start : spans[0].stop]) and not here[:kept].any()
    assert torch.equal(given[kept:], clip[spans[0].stop : spans[1].stop])
    assert torch.equal(here[kept:], where[spans[0].stop : spans[1].stop])
    assert (out[1 : spans[0].stop, 4:8, 4:8] == 0.1).all() and (out[spans[0].stop :, 4:8, 4:8] == 0.2).all()
    assert torch.equal(out[1:, 8:], clip[1:, 8:])


def test_one_window_is_the_edit_itself():
    clip, made = video(), torch.rand(FRAMES, SIDE, SIDE, 3)
    assert torch.equal(edit_in_windows(clip, generate(), None, clip_ranges(FRAMES, 0), lambda *given: made), made)


def test_a_window_without_a_mask_is_not_edited():
    clip, where = video(), generate()
    where[5:] = 0
    calls = []

    def edit(span, given, here):
        calls.append(span)
        return given * 0

    out = edit_in_windows(clip, where, None, clip_ranges(FRAMES, 5), edit)
    assert len(calls) == 1 and torch.equal(out[5:], clip[5:])


def test_a_drift_is_taken_out():
    """Each window of the model is a little redder than what it was given; matched, none is."""

    def redder(span, given, here):
        return given + torch.tensor([0.02, 0.0, -0.01])

    spans = clip_ranges(FRAMES, 5)
    drift = [float((edit_in_windows(video(), generate(), None, spans, redder, how) - video())[-1, 8:].mean((0, 1))[0])
             for how in (None, brought_back)]  # fmt: skip
    assert abs(drift[0] - 0.02) < 10 * FLOAT32_STEP and abs(drift[1]) < 10 * FLOAT32_STEP


def test_a_plain_background_does_not_repaint_the_object():
    """The model's background has half the contrast and a cast of 0.02: the cast goes, and the object stays as it is."""
    source = 0.5 + 0.01 * torch.randn(2, 32, 32, 3, generator=torch.Generator().manual_seed(1))
    kept = torch.ones(2, 32, 32)
    kept[:, 8:24, 8:24] = 0
    made = 0.5 + (source - 0.5) / 2 + 0.02
    made[kept == 0] = torch.tensor([0.9, 0.1, 0.2])
    found = brought_back(made, source, kept)
    assert (found[kept == 1].mean(0) - source[kept == 1].mean(0)).abs().max() < 10 * FLOAT32_STEP
    assert (found - made)[kept == 0].abs().max() < 0.03
