"""The renderer's promises: determinism, splits, masks, exact flow, edits that change only what they name."""

from __future__ import annotations

import pytest
import torch
from steadyedit.toyworld import apply_edit, edits_of, heldout_edits, render, sample_scene
from steadyedit.toyworld.world.edits import KINDS, editable_scene
from steadyedit.toyworld.world.scene import SPLITS
from tolerances import FLOAT32
from torch.nn import functional as F


@pytest.mark.parametrize("size", [64, (40, 72)])
@pytest.mark.parametrize("frames", [1, 5])
def test_shapes_and_ranges(size, frames):
    height, width = (size, size) if isinstance(size, int) else size
    scene = sample_scene(3, frames=frames, size=size, objects=2)
    clip = render(scene)
    assert clip.frames.shape == (frames, height, width, 3) and clip.frames.dtype == torch.float32
    assert clip.masks.shape == (2, frames, height, width)
    assert clip.flow.shape == (frames - 1, height, width, 2)
    assert clip.flow_valid.shape == (frames - 1, height, width)
    assert 0 <= clip.frames.min() and clip.frames.max() <= 1


def test_same_seed_same_clip():
    for photo in (False, True):
        first, second = (render(sample_scene(11, "test", frames=3, photo=photo)) for _ in range(2))
        assert torch.equal(first.frames, second.frames) and torch.equal(first.flow, second.flow)
        assert first.caption == second.caption


def test_a_longer_clip_begins_with_the_shorter():
    short, long = (render(sample_scene(12, frames=n, size=48)) for n in (4, 9))
    assert torch.equal(short.frames, long.frames[:4])


def test_splits_share_no_scene():
    keys = {split: {sample_scene(seed, split).key for seed in range(200)} for split in SPLITS}
    assert len(set().union(*keys.values())) == 200 * len(SPLITS)
    assert sample_scene(5, "train").caption != sample_scene(5, "test").caption or (
        sample_scene(5, "train").main != sample_scene(5, "test").main)


def test_an_override_moves_nothing_else():
    scene, changed = sample_scene(7), sample_scene(7, background="sand")
    assert scene.main.x == changed.main.x and scene.style == changed.style and changed.background == "sand"
    with pytest.raises(ValueError, match="no option"):
        sample_scene(7, hue="red")


def test_masks_part_the_frame():
    for seed in range(6):
        masks = render(sample_scene(seed, "test", frames=3, size=64, objects=3)).masks
        assert masks.min() >= 0 and masks.sum(0).max() <= 1 + FLOAT32
        assert (masks[0] > 0.5).float().mean() > 0.02, "the main object stays in sight"


def warp_back(frame: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """frame_{t+1} sampled where each pixel of frame t went; [H,W,3], [H,W,2] pixels."""
    height, width = frame.shape[:2]
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = (xs + flow[..., 0] + 0.5) / width * 2 - 1
    y = (ys + flow[..., 1] + 0.5) / height * 2 - 1
    grid = torch.stack([x, y], dim=-1)[None]
    return F.grid_sample(frame.permute(2, 0, 1)[None], grid, align_corners=False)[0].permute(1, 2, 0)


@pytest.mark.parametrize("objects", [1, 3])
def test_flow_carries_each_frame_to_the_next(objects):
    for seed in range(4):
        clip = render(sample_scene(seed, "test", frames=4, size=128, objects=objects))
        for t in range(3):
            error = (warp_back(clip.frames[t + 1], clip.flow[t]) - clip.frames[t]).pow(2).mean(-1)[clip.flow_valid[t]]
            assert clip.flow_valid[t].float().mean() > 0.6
            assert -10 * torch.log10(error.mean()) > 32, (seed, t)


def test_edits_change_only_what_they_name():
    scene = sample_scene(2, "test", frames=3, size=64, objects=2, style="none", photo=False)
    clip = render(scene)
    outside = clip.masks[0] == 0
    for kind in ("colour", "texture"):
        edit = next(e for e in edits_of(scene) if e.kind == kind and e.target != "plain")
        answer = render(apply_edit(scene, edit))
        assert torch.equal(answer.masks, clip.masks) and torch.equal(answer.flow, clip.flow)
        assert torch.equal(answer.frames[outside], clip.frames[outside])
        assert (answer.frames - clip.frames).abs()[clip.masks[0] > 0.9].max() > 0.1
        assert edit.target in answer.caption
    edit = next(e for e in edits_of(scene) if e.kind == "background")
    answer = render(apply_edit(scene, edit))
    inside = clip.masks.sum(0) == 1
    assert torch.equal(answer.frames[inside], clip.frames[inside])
    assert torch.equal(answer.masks, clip.masks)


@pytest.mark.parametrize("kind", KINDS)
def test_every_clip_has_an_edit_of_every_kind(kind):
    plain = 0
    for seed in range(120):
        scene, edits = editable_scene(seed, "demo", 2, 64, kind)
        drawn = sample_scene(seed, "demo", 2, 64)
        assert edits and {edit.kind for edit in edits} == {kind}
        # Only a style that hides the edit is left out.
        plain += scene != drawn
        assert scene in (drawn, sample_scene(seed, "demo", 2, 64, style="none"))
    assert (plain > 0) == (kind in ("colour", "style"))
    assert "black and white" in render(sample_scene(81, "demo", 1, 64)).caption
    assert "black and white" not in render(editable_scene(81, "demo", 1, 64, "colour")[0]).caption


def test_instructions_read_as_english():
    scene = sample_scene(
        2, "test", colour="red", shape="ball", texture="plain", style="none", background="sand", objects=1)
    orders = {e.instruction for e in edits_of(scene)}
    assert {"make the ball blue", "turn the ball into a star", "make the ball striped", "at sunset",
            "in black and white", "replace the background with grass"} <= orders


def test_the_benchmark_is_fixed_and_balanced():
    pairs = heldout_edits(48)
    assert pairs == heldout_edits(48) and pairs[:10] == heldout_edits(10)
    assert {kind: sum(e.kind == kind for _, e in pairs) for kind in KINDS}.keys() == set(KINDS)
    assert min(sum(e.kind == kind for _, e in pairs) for kind in KINDS) >= 9
    for scene, edit in pairs:
        assert scene.split == "test" and apply_edit(scene, edit).caption != scene.caption
