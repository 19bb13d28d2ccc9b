"""The toy grounding's recipe: phrases and their boxes, its losses, and what it publishes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from steadyedit.toyworld import models, render, sample_scene
from steadyedit.toyworld.models.grounder import ToyDetector, overlaps, suppress_overlaps
from steadyedit.toyworld.training import loop as training
from steadyedit.toyworld.training.data import still
from steadyedit.toyworld.training.recipes import grounder as recipe
from steadyedit.toyworld.training.recipes import sam
from steadyedit.toyworld.world.scene import Thing, Wave
from steadyedit.vision.boxes import around, corners
from tolerances import FLOAT32, FLOAT32_NEAREST


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Data, checkpoints and weights of the test's own."""
    for module, name in ((sam, "CACHE"), (training, "CACHE"), (models, "WEIGHTS")):
        monkeypatch.setattr(module, name, tmp_path)
    return tmp_path


def test_a_phrase_has_the_boxes_of_the_things_that_it_fits(folder):
    chunk, generator = sam.labelled(0, count=4), torch.Generator().manual_seed(0)
    lengths = set()
    for row in [0, 1, 2, 3] * 10:
        _, phrase, boxes = recipe.sample(chunk, 0, row, generator)
        scene, _ = still(row, "train")
        words = tuple(word for word in phrase.split() if word not in ("the", "a", "an"))
        fitting = [i for i, thing in enumerate(scene.things) if recipe.fits(thing, words)
                   and (chunk[1][row] == i).sum() >= sam.SMALLEST]
        assert len(boxes) == len(fitting)
        lengths.add(len(boxes))
        for box, thing in zip(boxes.int().tolist(), fitting):
            part = torch.from_numpy(chunk[1][row] == thing)
            assert part.sum() == part[box[1] : box[3], box[0] : box[2]].sum()
    assert {0, 1} <= lengths


def test_cells_near_a_centre_belong_to_its_box():
    boxes = torch.tensor([[16.0, 16, 64, 64], [36, 36, 44, 44]])
    hits, places = recipe.targets_of([boxes, torch.zeros(0, 4)])
    assert hits[0].any() and not hits[1].any()
    # The small box takes the cell that both want.
    assert places[0, 4, 4].tolist() == boxes[1].tolist() and places[0, 3, 3].tolist() == boxes[0].tolist()


def test_overlaps_and_doubles():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [1, 0, 11, 10], [50, 50, 60, 60]])
    assert overlaps(boxes[0], boxes[1]).item() == pytest.approx(0.5)
    assert suppress_overlaps(torch.tensor([0.9, 0.8, 0.7, 0.6]), boxes, 0.5, same=0.4) == [0, 3]
    assert suppress_overlaps(torch.tensor([0.9, 0.1, 0.8, 0.6]), boxes, 0.5) == [0, 3]


def test_it_learns_and_publishes(folder, monkeypatch):
    torch.manual_seed(0)
    network, chunk = models.build_grounder(), sam.labelled(0, count=4)
    rows = [recipe.sample(chunk, 0, i, torch.Generator().manual_seed(3)) for i in range(4)]
    images = torch.stack([torch.from_numpy(row[0]) for row in rows])
    cost = lambda: recipe.loss_of(network, images, [r[1] for r in rows], [r[2] for r in rows])  # noqa: E731
    before = cost().item()
    run = training.Run("grounder", {"grounder": network}, 8, 3e-3, 0, ema=0.0, warmup=1)
    for _ in range(8):
        run.advance(cost())
    assert cost().item() < before
    monkeypatch.setattr(recipe, "measure", lambda detector, count: {"iou_text": 0.5})
    assert recipe.release(run, 4, 1) == {"iou_text": 0.5}
    assert models.weights_path("grounder").stat().st_size < 600_000
    detector = models.load_grounder()
    frames = torch.rand(2, 48, 80, 3)
    rows = detector.detect(frames, "The red ball. blue star", 0.0)
    assert {box["label"] for box in rows[0]} == {"the red ball", "blue star"}
    assert all(0 <= box["x"] and box["x"] + box["width"] <= 80.01 and box["y"] + box["height"] <= 48.01
               for row in rows for box in row)
    assert [box["score"] for box in rows[0]] == sorted((box["score"] for box in rows[0]), reverse=True)


def test_words_count_and_their_order_does_not():
    network = models.build_grounder().eval()
    detector = ToyDetector(network)
    frame = torch.rand(1, 128, 128, 3)
    scores = [[round(b["score"], 6) for b in detector.detect(frame, text, 0.0)[0]][:3]
              for text in ("red ball", "ball red", "blue ball")]
    assert scores[0] == pytest.approx(scores[1], abs=FLOAT32)
    assert scores[0] != pytest.approx(scores[2], abs=FLOAT32_NEAREST)


@pytest.mark.parametrize("text", ["an elephant", "a green elephant", "person. car", "background", "grass"])
def test_what_the_toy_world_does_not_have_is_not_found(text):
    detector = ToyDetector(models.build_grounder())
    frame = torch.rand(1, 128, 128, 3)
    assert detector.detect(frame, text, 0.0) == [[]]
    assert {box["label"] for box in detector.detect(frame, f"{text}. the green fish", 0.0)[0]} == {"the green fish"}


@pytest.mark.skipif(not models.weights_path("grounder").is_file(), reason="the toy grounding is not trained yet")
def test_the_shipped_network_finds_the_red_ball_among_distractors():
    detector = models.load_grounder()
    assert recipe.measure(detector, count=16)["iou_text"] >= 0.7
    still_at = lambda value: Wave(value, 0.0, 1.0, 0.0)  # noqa: E731
    red = Thing("red", "ball", "plain", still_at(0.0), still_at(0.1), still_at(0.12), still_at(0.0), 0)
    others = (replace(red, colour="blue", x=still_at(-0.3)), replace(red, shape="square", x=still_at(0.3)))
    scene = replace(sample_scene(0, "test", frames=1, size=128), background="grass", style="none",
                    things=(red, *others))
    clip = render(scene)
    (row,) = detector.detect(clip.frames, "the red ball")  # the surest first
    assert overlaps(corners(row)[0], around(clip.masks[0][0])).item() > 0.7
