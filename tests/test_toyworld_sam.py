"""The toy Segment Anything's recipe: its data, its losses, and that what it publishes is an official checkpoint."""

from __future__ import annotations

import json

import pytest
import torch
from steadyedit.toyworld import models, render, sample_scene
from steadyedit.toyworld.training import loop as training
from steadyedit.toyworld.training.judging import tracking
from steadyedit.toyworld.training.recipes import sam as recipe
from steadyedit.vision.segmentation import Prompt, names, segment_frame
from steadyedit.vision.segmentation.load import load_segmenter
from steadyedit.vision.track import track


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Data, checkpoints and weights of the test's own."""
    for module, name in ((recipe, "CACHE"), (training, "CACHE"), (models, "WEIGHTS")):
        monkeypatch.setattr(module, name, tmp_path)
    return tmp_path


def test_stills_know_which_object_is_seen(folder):
    images, seen = recipe.labelled(0, count=3)
    assert images.shape == (3, 128, 128, 3) and seen.shape == (3, 128, 128)
    assert {*seen.ravel().tolist()} <= {0, 1, 2, recipe.NOTHING}
    again, _ = recipe.labelled(0, count=3)
    assert (again == images).all() and len(list(folder.glob("sam_*.npz"))) == 1
    pictures, masks = recipe.batch_of([(images, seen)], 4, torch.Generator().manual_seed(0))
    assert pictures.shape == (4, 128, 128, 3) and (masks.sum((1, 2)) >= recipe.SMALLEST).all()


def test_the_right_mask_costs_nothing():
    truth = torch.zeros(2, 32, 32)
    truth[:, 8:20, 4:24] = 1
    small = torch.nn.functional.avg_pool2d(truth[:, None], 2)
    logits = torch.cat([small * 40 - 20, 20 - small * 40], 1)
    costs = recipe.losses(logits, torch.tensor([[1.0, 1.0]] * 2), truth)
    assert costs[:, 0].max() < 0.05 and costs[:, 1].min() > 1.5


def test_boxes_are_loosened_and_points_lie_inside():
    generator, mask = torch.Generator().manual_seed(0), torch.zeros(1, 64, 64)
    mask[0, 10:30, 20:60] = 1
    assert recipe.boxes_of(mask).tolist() == [[20, 10, 60, 30]]
    loose = recipe.boxes_of(mask, generator)
    assert (loose - recipe.boxes_of(mask)).abs().max() <= 4 and not torch.equal(loose, recipe.boxes_of(mask))
    x, y = recipe.points_in(mask, generator)[0].int().tolist()
    assert mask[0, y, x] == 1


def test_it_learns_and_publishes_an_official_checkpoint(folder, monkeypatch):
    """Four steps on one batch lower its loss; the file loads by its keys and gives the average's masks."""
    torch.manual_seed(0)
    network = recipe.started()
    data, generator = [recipe.labelled(0, count=4)], torch.Generator().manual_seed(1)
    batch = recipe.batch_of(data, 2, generator)
    cost = lambda: recipe.loss_of(network, *batch, torch.Generator().manual_seed(2))  # noqa: E731
    before = cost().item()
    fourier = network.shared_image_embedding.positional_embedding.clone()
    run = training.Run("sam", {"sam": network}, 4, 3e-3, 0, ema=0.0, warmup=1)
    for _ in range(4):
        run.advance(cost())
    assert cost().item() < before
    assert torch.equal(network.prompt_encoder.shared_embedding.positional_embedding, fourier)

    monkeypatch.setattr(recipe, "measure", lambda segmenter, count, clips: {"iou_box": 0.5})
    assert recipe.release(run, 2, 1, 0) == {"iou_box": 0.5}
    path = models.weights_path("sam")
    assert path.stat().st_size < 1_400_000
    segmenter = load_segmenter(path, engine="transformers")
    assert names.shape_of(names.to_official(segmenter.module.state_dict(), names.official_names(models.sam_shape()))) \
        == models.sam_shape()
    frame = batch[0][:1].float() / 255
    masks = segment_frame(segmenter, segmenter.encode(frame)[0], Prompt(boxes=recipe.boxes_of(batch[1][:1]))).masks
    assert masks.shape == (1, 1, 128, 128) and masks.isfinite().all()
    assert models.load_sam().engine.side == 128


@pytest.fixture(scope="module")
def trained():
    """The shipped network."""
    if not models.weights_path("sam").is_file():
        pytest.skip("the toy SAM is not trained yet")
    return models.load_sam()


def test_the_shipped_network_keeps_its_bars(trained):
    """On a few of the held-out stills; all of them are measured beside the weights."""
    bars = recipe.measure(trained, count=12, clips=0)
    assert bars["iou_box"] >= 0.88 and bars["iou_point"] >= 0.8
    told = json.loads(models.weights_path("sam").with_suffix(".json").read_text())["bars"]
    assert told["iou_box"] >= 0.9 and told["iou_point"] >= 0.85 and told["iou_tracked"] >= 0.8


def test_an_object_is_found_again_behind_what_hid_it_and_the_confidence_tells(trained):
    scene = tracking.crossed(sample_scene(302, "test", frames=32, size=128))
    # Every second frame of those around the crossing.
    clip = render(scene)
    chosen = list(range(4, 26, 2))
    frames, true, share = clip.frames[chosen], clip.masks[0][chosen], tracking.share_seen(scene, clip.masks[0])[chosen]
    masks, sure = track(frames, {0: true[0]}, trained)
    hidden, whole = share < tracking.HIDDEN, share > 0.9
    assert hidden.sum() >= 2 and sure[hidden].max() < 0.2 and sure[whole].min() > 0.6
    assert not masks[hidden].any()
    assert min(recipe.iou(*pair) for pair in zip(masks[whole], true[whole])) > 0.9
