"""Boxes, typed points, masks put right, tracking by flow, and the words for a region."""

from __future__ import annotations

import pytest
import torch
from steadyedit.files.found import located
from steadyedit.toyworld import render, sample_scene
from steadyedit.vision import boxes, checkpoint, masks, region
from steadyedit.vision.refine import refined
from steadyedit.vision.segmentation import Prediction
from steadyedit.vision.track import track
from tolerances import RUN

BOX = {"x": 2, "y": 3, "width": 4, "height": 5}


@pytest.mark.parametrize("given", [BOX, [BOX], [[BOX]], [[BOX], [BOX]]])
def test_every_form_of_the_hosts_boxes(given):
    assert boxes.per_frame(given, 3) == [[BOX]] * 3


def test_boxes_of_each_frame_keep_their_place():
    assert boxes.per_frame([[BOX], [], [BOX, BOX]], 4) == [[BOX], [], [BOX, BOX], [BOX, BOX]]
    assert boxes.per_frame([], 2) == [[], []]


@pytest.mark.parametrize("given", ["no box", 3, [{"x": 1}], [[1, 2, 3, 4]]])
def test_what_is_no_box_is_told(given):
    with pytest.raises(ValueError, match="boxes: "):
        boxes.per_frame(given, 1)


def test_corners_and_back():
    assert boxes.corners([BOX]).tolist() == [[2, 3, 6, 8]]
    assert boxes.from_corners(boxes.corners([BOX])[0], label="dog") == {**BOX, "label": "dog"}
    assert boxes.inside({"x": -2, "y": 1, "width": 4, "height": 40}, 10, 20) == {
        "x": 0.0, "y": 1, "width": 2.0, "height": 9.0}
    assert boxes.inside({"x": 30, "y": 1, "width": 4, "height": 4}, 10, 20) is None


def test_the_box_around_a_mask():
    mask = torch.zeros(10, 12)
    assert boxes.around(mask) is None
    mask[3:8, 2:6] = 1
    assert boxes.around(mask).tolist() == boxes.corners([BOX])[0].tolist()
    assert torch.equal(masks.filled([[BOX]], 10, 12)[0], mask)


@pytest.mark.parametrize("text", ["10,20; 30,40", '[{"x": 10, "y": 20}, {"x": 30, "y": 40}]', " 10, 20;30,40 ; "])
def test_points_typed_or_from_the_hosts_nodes(text):
    assert masks.parsed_points(text, "positive", 50, 50) == [(10.0, 20.0), (30.0, 40.0)]


def test_one_object_of_clicks_and_one_each_of_boxes():
    clicks = masks.point_prompts([(1.0, 2.0)], [(3.0, 4.0)], [BOX])
    assert len(clicks) == 1 and clicks[0].count == 1 and clicks[0].labels.tolist() == [[1, 0]]
    apart = masks.point_prompts([(1.0, 2.0)], [], [BOX, BOX])
    assert [prompt.count for prompt in apart] == [1, 2] and apart[0].boxes is None
    assert masks.point_prompts([], [], []) == []


def blob():
    mask = torch.zeros(5, 30, 40)
    mask[:, 8:20, 10:26] = 1
    return mask


def test_nothing_set_leaves_a_soft_mask_alone():
    soft = torch.rand(2, 8, 9)
    assert torch.equal(refined(soft), soft)


def test_specks_and_holes():
    clean, mask = blob(), blob()
    mask[:, 2, 2] = mask[:, 25:27, 30] = 1
    mask[:, 12:14, 15:17] = 0
    assert torch.equal(refined(mask, specks=3, holes=4), clean)
    # 4 pixels of hole and 2 of speck are left where less is asked for; the background is no hole.
    assert torch.equal(refined(mask, specks=1, holes=3), mask)
    assert torch.equal(refined(clean, holes=10**6), clean)


def test_growing_and_shrinking():
    clean = blob()
    wide = refined(clean, grow=3)
    assert boxes.around(wide[0]).tolist() == [7, 5, 29, 23]
    # An octagon: the corner of the square is cut.
    assert wide[0, 5, 7] == 0 and wide[0, 5, 10] == 1
    assert boxes.around(refined(clean, grow=-2)[0]).tolist() == [12, 10, 24, 18]
    full = torch.ones(1, 6, 7)
    assert torch.equal(refined(full, grow=-2), full)


def test_feathering_is_a_gaussian_of_that_deviation():
    edge = torch.zeros(1, 40, 60)
    edge[:, :, 30:] = 1
    soft = refined(edge, feather=3.0)[0, 20]
    x = torch.arange(60) - 29.5
    assert torch.allclose(soft, 0.5 * (1 + torch.erf(x / (3 * 2**0.5))), atol=5 * RUN)
    assert refined(torch.ones(1, 4, 5), feather=9.0).allclose(torch.ones(1, 4, 5))


def test_a_flickering_frame_is_outvoted():
    mask = blob()
    mask[2] = 0
    assert torch.equal(refined(mask, smooth=1), blob())
    assert torch.equal(refined(blob(), smooth=3), blob())
    assert torch.equal(refined(blob()[:1], smooth=2), blob()[:1])


class Perfect:
    """A segmenter that knows the answer: each frame's true mask, found by its pixels."""

    frame_bytes = 0

    def __init__(self, clip):
        self.known = {frame.sum().item(): mask for frame, mask in zip(clip.frames, clip.masks[0])}

    def encode(self, frames):
        return [self.known[frame.sum().item()] for frame in frames]

    def predict(self, features, prompt, multimask=False):
        if prompt.boxes is None:
            found = torch.stack([features * features[int(y), int(x)] for x, y in prompt.points[:, 0]])
        else:
            x1, y1, x2, y2 = prompt.boxes[0].round().int().tolist()
            found = torch.zeros_like(features)[None]
            found[0, y1:y2, x1:x2] = features[y1:y2, x1:x2]
        return Prediction(found[:, None] - 0.5, torch.ones(len(found), 1), torch.zeros(len(found), 1, 4, 4))


def overlap(found, true):
    return ((found * true).sum((1, 2)) / torch.maximum(found, true).sum((1, 2)).clamp(min=1)).tolist()


def test_flow_alone_follows_an_object():
    clip = render(sample_scene(0, "test", frames=8, size=96))
    given = clip.masks[0][3]
    found, sure = track(clip.frames, {3: given})
    assert torch.equal(found[3], (given > 0.5).float()) and sure[3] == 1
    assert min(overlap(found, clip.masks[0])) > 0.75 and sure.min() > 0.5


def test_a_segmenter_puts_the_borders_right():
    clip = render(sample_scene(1, "test", frames=8, size=96))
    found, _ = track(clip.frames, {0: clip.masks[0][0]}, Perfect(clip))
    alone, _ = track(clip.frames, {0: clip.masks[0][0]})
    right, drifting = (sum(overlap(masks_, clip.masks[0])) / 8 for masks_ in (found, alone))
    assert right > 0.9 and right > drifting


def moving_square(hidden=()):
    """A red square that goes right by 3 pixels a frame over a gray pattern; blue covers it where it is hidden."""
    generator = torch.Generator().manual_seed(0)
    back = 0.4 + 0.2 * torch.rand(64, 96, 1, generator=generator).expand(-1, -1, 3)
    frames, true = [], []
    texture = torch.rand(16, 16, 1, generator=generator) * 0.3
    for t in range(12):
        frame, mask = back.clone(), torch.zeros(64, 96)
        rows, columns = slice(24, 40), slice(8 + 3 * t, 24 + 3 * t)
        if t in hidden:
            frame[20:44, 4 + 3 * t : 28 + 3 * t] = torch.tensor([0.1, 0.1, 0.9])
        else:
            frame[rows, columns] = torch.tensor([0.9, 0.1, 0.1]) * (0.7 + texture)
            mask[rows, columns] = 1
        frames.append(frame)
        true.append(mask)
    return torch.stack(frames), torch.stack(true)


def test_the_confidence_falls_where_the_object_is_hidden():
    frames, true = moving_square(hidden=(5, 6))
    _, sure = track(frames, {0: true[0]})
    seen = torch.tensor(list(range(5)))
    assert sure[seen].min() > 0.6 and sure[5:7].max() < 0.3


def test_a_hidden_object_is_found_again_by_the_segmenter():
    frames, true = moving_square(hidden=(5, 6))
    clip = type("Clip", (), {"frames": frames, "masks": [true]})
    found, sure = track(frames, {0: true[0]}, Perfect(clip))
    assert not found[5:7].any() and sure[5:7].max() < 0.3
    assert min(overlap(found[8:], true[8:])) > 0.7 and sure[8:].min() > 0.5


def test_a_hidden_object_is_found_again_where_it_turned_back():
    frames, true = moving_square(hidden=(5, 6))
    order = [*range(7), 4, 3, 2, 1, 0]
    frames, true = frames[order], true[order]
    clip = type("Clip", (), {"frames": frames, "masks": [true]})
    found, sure = track(frames, {0: true[0]}, Perfect(clip))
    assert not found[5:7].any() and min(overlap(found[7:], true[7:])) > 0.9 and sure[7:].min() > 0.8


def test_each_frame_belongs_to_the_nearer_given_mask():
    frames, true = moving_square()
    empty = torch.zeros_like(true[0])
    found, sure = track(frames, {1: true[1], 9: empty})
    assert found[:6].flatten(1).any(1).all() and not found[6:].any() and not sure[6:].any()
    told = []
    track(frames[:4], {2: true[2]}, progress=told.append)
    assert told[-1] == 4 and told == sorted(told)


@pytest.mark.parametrize("answer, words", [
    ("red ball", "red ball"), ("The red ball.", "red ball"), ("**Answer:** the dog's hat", "dog's hat"),
    ('"a tree"\nbecause it stands there', "tree"), ("<think>the ball? no</think>\nThe star", "star"),
    ("Whole frame.", region.WHOLE), ("The entire picture", region.WHOLE), ("the region is the sky", "sky"),
])  # fmt: skip
def test_the_region_in_an_answer(answer, words):
    assert region.region_of(answer) == words


@pytest.mark.parametrize("answer", ["", "<think>still thinking",
                                    "It is hard to say which of the many things that I see would have to change."])
def test_an_answer_without_a_region_is_told(answer):
    with pytest.raises(ValueError, match="answer: names no region"):
        region.region_of(answer)


def test_regions_by_frame():
    lines = region.written({24: "red hat", 0: "man"})
    assert lines == "0: man\n24: red hat" and region.regions_of(lines) == {0: "man", 24: "red hat"}
    assert [region.words_at({2: "a", 5: "b"}, frame) for frame in (0, 2, 4, 5, 9)] == ["a", "a", "a", "b", "b"]
    for plain in ("dog . red ball", "dog\n2: cat", "", "12:30 clock\nhat"):
        assert region.regions_of(plain) == {0: plain}
    with pytest.raises(ValueError, match="text: gives words for a frame twice: 3, 3"):
        region.regions_of("3: a\n3: b")


def test_pickers_list_files_and_folders(tmp_path):
    for name in ("a.pth", "sub/b.safetensors", "tiny/model.safetensors", "notes.txt", "other/model.safetensors"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "tiny" / "config.json").write_text('{"model_type": "sam"}')
    (tmp_path / "other" / "config.json").write_text("[]")
    assert checkpoint.listed([tmp_path, tmp_path / "none"], ("sam",)) == ["a.pth", "sub/b.safetensors", "tiny"]
    assert checkpoint.listed([tmp_path], files=False) == ["other", "tiny"]
    assert located([tmp_path / "none", tmp_path], "tiny") == tmp_path / "tiny"
    # A configuration that lies in the models folder itself hides nothing.
    (tmp_path / "config.json").write_text("{}")
    assert checkpoint.listed([tmp_path], ("sam",)) == ["a.pth", "sub/b.safetensors", "tiny"]
