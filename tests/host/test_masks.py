"""The nodes that look at pictures, as the host calls them, with small random networks, and their bad input."""

from __future__ import annotations

import json
import re

import comfy.model_management  # noqa: F401 - by it the pack knows that a host runs
import folder_paths
import pytest
import torch
from steadyedit import nodes
from steadyedit.nodes import captions, vision_models
from steadyedit.vision.grounding import load as grounding_load
from steadyedit.vision.grounding import names as grounding_names
from steadyedit.vision.segmentation import Prompt, names, segment_frame
from steadyedit.vision.segmentation import load as sam_load
from tiny_vision import TINY_GROUNDING, TINY_SAM, clip, sam2_configs, shaken, vocabulary
from tolerances import NETWORK, RUN

SIDES = ("x", "y", "width", "height")
NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}


def run(node_id, **inputs):
    """Call a node as the host does: in inference mode, every required input given."""
    schema = NODES[node_id].GET_SCHEMA()
    defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None and not i.optional}
    given = defaults | inputs
    assert {i.id for i in schema.inputs if not i.optional} <= given.keys()
    with torch.inference_mode():
        return NODES[node_id].execute(**given)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """models/sams and models/grounding-dino with a network each."""
    from transformers import GroundingDinoForObjectDetection, Sam2VideoModel

    root = tmp_path_factory.mktemp("models")
    (root / "sams").mkdir()
    sam = shaken(lambda: sam_load.build_transformers(TINY_SAM))
    torch.save(names.to_official(sam.state_dict(), names.official_names(TINY_SAM)), root / "sams" / "tiny.pth")
    shaken(lambda: Sam2VideoModel(sam2_configs()[1])).save_pretrained(root / "sams" / "video")
    folder = root / "grounding-dino" / "tiny"
    module = shaken(lambda: GroundingDinoForObjectDetection(grounding_names.transformers_config(TINY_GROUNDING)), 0.01)
    module.save_pretrained(folder)
    grounding_load.find_tokenizer([vocabulary(folder)]).save_pretrained(folder)
    (root / "LLM").mkdir()
    return root


@pytest.fixture(autouse=True)
def folders(models, monkeypatch):
    for name in ("sams", "grounding-dino", "LLM"):
        entry = ([str(models / name)], set(folder_paths.supported_pt_extensions))
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)


@pytest.fixture(scope="module")
def sam(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "sams", ([str(models / "sams")], set()))
        return run("SteadyEditSAMModel", model="tiny.pth")[0]


@pytest.fixture(scope="module")
def grounding(models):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(folder_paths.folder_names_and_paths, "grounding-dino", ([str(models / "grounding-dino")], set()))
        loaded = run("SteadyEditGroundingModel", model="tiny")[0]
    loaded.model.shorter, loaded.model.longer = 96, 160
    return loaded


def test_the_pickers_list_files_and_folders():
    options = {node: next(i for i in NODES[node].GET_SCHEMA().inputs if i.id == "model").options
               for node in ("SteadyEditSAMModel", "SteadyEditGroundingModel")}
    assert [name for name in options["SteadyEditSAMModel"] if name != vision_models.TOY] == ["tiny.pth", "video"]
    assert [name for name in options["SteadyEditGroundingModel"] if name != vision_models.TOY] == ["tiny"]


def test_clicks_give_the_mask_of_the_network(sam):
    """Points of both kinds and a box on one frame of a clip; the outputs are in the host's forms."""
    frames = clip(3)
    mask, score, positive, negative, boxes, numbers, each, own = run(
        "SteadyEditPointMask", images=frames, sam=sam, frame=2, positive="20, 30", on_nothing="error",
        negative='[{"x": 5, "y": 6}]', boxes="10,12,30,40").args
    prompt = Prompt(torch.tensor([[10.0, 12, 40, 52]]), torch.tensor([[[20.0, 30], [5, 6]]]), torch.tensor([[1, 0]]))
    wanted = segment_frame(sam.model, sam.model.encode(frames[2:])[0], prompt)
    assert torch.equal(mask, (wanted.masks[:, 0] > 0).float()) and score == pytest.approx(wanted.scores.item())
    assert json.loads(positive) == [{"x": 20.0, "y": 30.0}] and json.loads(negative) == [{"x": 5.0, "y": 6.0}]
    assert boxes == [[{"x": 10.0, "y": 12.0, "width": 30.0, "height": 40.0}]] and numbers == "2"
    assert torch.equal(each[0], mask) and own == ["2"]


def test_boxes_of_the_hosts_nodes_are_taken(sam):
    """A dict, a list, and a list for each frame, as CreateBoundingBoxes, RTDETR_detect and SAM3_Detect give them."""
    box = {"x": 10, "y": 12, "width": 30, "height": 40, "score": 0.5}
    forms = (box, [box], [[], [box]])
    masks = [run("SteadyEditPointMask", images=clip(2), sam=sam, frame=1, bboxes=form)[0] for form in forms]
    assert masks[0].any() and torch.equal(masks[0], masks[1]) and torch.equal(masks[0], masks[2])


def test_several_boxes_are_joined(sam):
    one, other = "5,6,25,34", "10,10,42,60"
    masks = [run("SteadyEditPointMask", images=clip(1), sam=sam, boxes=text)[0] for text in (one, other)]
    joint = run("SteadyEditPointMask", images=clip(1), sam=sam, boxes=f"{one}; {other}")[0]
    assert torch.equal(joint, torch.maximum(*masks))


def test_several_frames_and_objects(sam):
    """Parts of the text are the same as nodes of their own; the network is asked for only where something is marked."""
    frames = clip(3)
    alone = lambda frame, positive, boxes="": run(  # noqa: E731
        "SteadyEditPointMask", images=frames, sam=sam, frame=frame, positive=positive, boxes=boxes)[0][0]
    one, later, other = alone(0, "20,30", "10,12,30,40"), alone(2, "22,31"), alone(2, "40,60")
    mask, score, positive, *_, boxes, numbers, each, own = run(
        "SteadyEditPointMask", images=frames, sam=sam, frame=0, positive="20,30 | 2: 22,31 | 2#2: 40,60",
        negative="1: 3,3", boxes="10,12,30,40").args
    assert numbers == "0, 2" and own == ["0, 2", "2"] and [len(row) for row in boxes] == [1, 0]
    assert torch.equal(mask, torch.stack([one, torch.maximum(later, other)]))
    assert torch.equal(each[0], torch.stack([one, later])) and torch.equal(each[1], other[None])
    assert json.loads(positive) == [{"x": 20.0, "y": 30.0}] and 0 < score <= 1
    rows = '[{"x": 20, "y": 30}, {"x": 22, "y": 31, "frame": 2}, {"x": 40, "y": 60, "frame": 2, "object": 2}]'
    again = run("SteadyEditPointMask", images=frames, sam=sam, frame=0, positive=rows, boxes="10,12,30,40")[0]
    assert torch.equal(again, mask)


def test_an_object_that_the_joined_mask_lacks_is_told(sam, caplog):
    run("SteadyEditPointMask", images=clip(2), sam=sam, positive="20,30 | 1#2: 22,31")
    assert "object 2 has no mark in frame 0, so the joined mask lacks it there" in caplog.text


def test_without_marks_no_network_is_opened():
    node = NODES["SteadyEditPointMask"]
    assert node.check_lazy_status(positive=" ", negative="1,2", boxes="", sam=None) == []
    assert node.check_lazy_status(positive="1,2", sam=None) == ["sam"]
    assert node.check_lazy_status(positive="1,2", sam="loaded") == []
    mask, *_ = run("SteadyEditPointMask", images=clip(2), sam=None).args
    assert mask.shape == (1, 75, 53) and not mask.any()


def test_words_give_boxes_and_masks(sam, grounding):
    frames = clip(3)
    mask, boxes, scores, numbers = run("SteadyEditTextMask", images=frames, grounding=grounding, sam=sam, text="dog",
                                       box_threshold=0.0, count=2).args
    assert mask.shape == (3, 75, 53) and [len(row) for row in boxes] == [2, 2, 2] and numbers == "0, 1, 2"
    assert scores.startswith("0: ") and len(scores.splitlines()) == 3
    alone = run("SteadyEditPointMask", images=frames, sam=sam, frame=1, bboxes=boxes)[0]
    assert torch.equal(alone[0], mask[1])
    # Neither the chunk nor the other frames change a mask.
    small = run("SteadyEditTextMask", images=frames, grounding=grounding, sam=sam, text="dog", box_threshold=0.0,
                count=2, chunk=1)
    assert torch.equal(small[0], mask)
    keys = run("SteadyEditTextMask", images=frames, grounding=grounding, sam=sam, text="dog", box_threshold=0.0,
               count=2, every=2)
    assert torch.equal(keys[0], mask[::2]) and keys[3] == "0, 2"


def test_words_without_a_segmenter_fill_the_boxes(grounding):
    mask, boxes, *_ = run("SteadyEditTextMask", images=clip(1), grounding=grounding, text="dog", box_threshold=0.0,
                          count=1).args
    box = boxes[0][0]
    assert mask.sum() >= box["width"] * box["height"] * 0.9


def test_the_whole_frame_needs_no_search(grounding):
    mask, boxes, *_ = run("SteadyEditTextMask", images=clip(2), grounding=grounding, text="Whole frame.").args
    assert mask.shape == (2, 75, 53) and mask.min() == 1 and boxes[1][0]["width"] == 53


def test_words_can_differ_by_frame(grounding):
    """A line holds until the next; whatever the chunk, a frame's boxes are those of its own words."""
    common = {"images": clip(5), "grounding": grounding, "box_threshold": 0.0, "count": 1}
    alone = {words: run("SteadyEditTextMask", text=words, **common).args for words in ("dog", "red ball")}
    lines = "1: dog\n3: red ball\n4: whole frame"
    for chunk in (1, 4):
        mask, boxes, scores, _ = run("SteadyEditTextMask", text=lines, chunk=chunk, **common).args
        for frame, words in enumerate(["dog", "dog", "dog", "red ball"]):
            (found,), (own,) = boxes[frame], alone[words][1][frame]
            assert [found[key] for key in SIDES] == pytest.approx([own[key] for key in SIDES], rel=NETWORK)
            assert found["label"] == own["label"]
        assert mask[4].min() == 1 and scores.splitlines()[4] == "4: whole frame 1.00"
    assert alone["dog"][1][3][0]["label"] != alone["red ball"][1][3][0]["label"]


def test_regions_are_asked_of_key_frames(monkeypatch):
    class Model:
        chats = True
        asked: list[float] = []

        def ask(self, frame, words):
            self.asked.append(float(frame.mean()))
            return "The dog." if len(self.asked) < 3 else "The fox."

    class Opened:
        model = Model()

        def ready(self, frames):
            return self.model

    monkeypatch.setattr(captions, "open_captioner", lambda *_: Opened())
    frames = torch.linspace(0, 1, 5)[:, None, None, None].expand(5, 8, 8, 3)
    inputs = {"instruction": "turn the dog into a fox", "model": "m", "images": frames}
    assert run("SteadyEditDescribeRegion", every=2, **inputs).args[3] == "0: dog\n2: dog\n4: fox"
    assert Model.asked == pytest.approx([0, 0.5, 1])
    Model.asked.clear()
    region, whole, _, by_frame = run("SteadyEditDescribeRegion", **inputs).args
    assert (region, whole, by_frame, len(Model.asked)) == ("dog", False, "0: dog", 1)


@pytest.mark.parametrize("model, method", [("tiny.pth", "flow"), ("video", "memory"), ("video", "auto"),
                                           (None, "auto")])
def test_a_mask_is_carried_through_the_clip(model, method):
    frames, mask = clip(4), torch.zeros(2, 75, 53)
    mask[:, 20:40, 20:40] = 1
    sam = run("SteadyEditSAMModel", model=model)[0] if model else None
    out, sure, lowest = run("SteadyEditTrackMask", images=frames, mask=mask, frames="1, 3", method=method, sam=sam).args
    assert out.shape == (4, 75, 53) and torch.equal(out[1], mask[0]) and torch.equal(out[3], mask[1])
    values = [float(part) for part in sure.split(", ")]
    assert len(values) == 4 and all(0 <= value <= 1 for value in values)
    assert lowest == pytest.approx(min(values), abs=RUN)


def test_unsure_frames_are_emptied():
    mask = torch.zeros(1, 75, 53)
    mask[:, 20:40, 20:40] = 1
    out, sure, _ = run("SteadyEditTrackMask", images=clip(3), mask=mask, hidden_below=1.0).args
    assert out[0].any() and not out[1:].any()


def test_refining_through_the_node():
    mask = torch.zeros(2, 40, 40)
    mask[:, 10:20, 10:20] = 1
    assert torch.equal(run("SteadyEditMaskRefine", mask=mask)[0], mask)
    assert run("SteadyEditMaskRefine", mask=mask, grow=2)[0].sum() > mask.sum()


def test_the_answer_of_another_model_becomes_a_region():
    region, whole, asked = run("SteadyEditDescribeRegion", instruction="turn the dog into a fox",
                               answer="The dog.").args[:3]
    assert (region, whole) == ("dog", False) and "turn the dog into a fox" in asked
    assert run("SteadyEditDescribeRegion", instruction="make it winter", answer="whole frame").args[:2] == (
        "whole frame", True)
    assert run("SteadyEditDescribeRegion", instruction="make it winter").args[0] == ""


class Fake:
    """A socket's value where the network is not reached."""

    name = "fake"


SQUARE = torch.ones(1, 75, 53)
MIXED = [torch.rand(1, 20, 20, 3), torch.rand(1, 30, 20, 3)]
REFUSED = {
    "missing checkpoint": ("SteadyEditSAMModel", {"model": "sam_vit_x.pth"}, FileNotFoundError,
                           "model: 'sam_vit_x.pth' is not in .*sams; put sam_vit_b_01ec64.pth"),
    "missing grounding": ("SteadyEditGroundingModel", {"model": "gd.pth"}, FileNotFoundError,
                          "model: 'gd.pth' is not in .*grounding-dino; put groundingdino_swint_ogc.pth"),
    "outside of the folder": ("SteadyEditSAMModel", {"model": "../x.pth"}, ValueError, "leaves the models folder"),
    "missing captioner": ("SteadyEditCaption", {"images": clip(1), "model": "florence"}, FileNotFoundError,
                          "model: 'florence' is not in .*LLM; put a folder"),
    "point outside": ("SteadyEditPointMask", {"images": clip(1), "sam": Fake, "positive": "60,10"}, ValueError,
                      "positive: the point 60,10 lies outside of the frame of 53x75"),
    "box outside": ("SteadyEditPointMask", {"images": clip(1), "sam": Fake, "boxes": "60,10,5,5"}, ValueError,
                    "boxes: the box 60,10,5,5 .* no pixel of the frame of 53x75"),
    "no points": ("SteadyEditPointMask", {"images": clip(1), "sam": Fake, "positive": "here"}, ValueError,
                  "positive: expected points such as 10,20"),
    "no such marked frame": ("SteadyEditPointMask", {"images": clip(2), "sam": Fake, "positive": "5: 1,2"}, ValueError,
                             "positive: there is no frame 5 in a clip of 2"),
    "no such object": ("SteadyEditPointMask", {"images": clip(2), "sam": Fake, "positive": "#0: 1,2"}, ValueError,
                       "positive: objects are counted from 1, but got #0"),
    "nothing clicked": ("SteadyEditPointMask", {"images": clip(1), "sam": Fake, "on_nothing": "error"}, ValueError,
                        "positive: the mask is empty; click"),
    "no such frame": ("SteadyEditPointMask", {"images": clip(2), "sam": Fake, "frame": 2}, ValueError,
                      "frame: there is no frame 2 in a clip of 2"),
    "mixed sizes": ("SteadyEditPointMask", {"images": MIXED, "sam": Fake}, ValueError,
                    "images: frames of mixed sizes, 20x20 and 20x30"),
    "empty text": ("SteadyEditTextMask", {"images": clip(1), "grounding": Fake, "text": " . "}, ValueError,
                   "text: is empty"),
    "frames and masks": ("SteadyEditTrackMask", {"images": clip(3), "mask": SQUARE, "frames": "0, 2"}, ValueError,
                         "frames: names 2 frames, but mask holds 1"),
    "no frame 9": ("SteadyEditTrackMask", {"images": clip(3), "mask": SQUARE, "frames": "9"}, ValueError,
                   "frames: there is no frame 9 in a clip of 3"),
    "twice": ("SteadyEditTrackMask", {"images": clip(3), "mask": SQUARE.repeat(2, 1, 1), "frames": "1, 1"}, ValueError,
              "frames: names frame 1 twice"),
    "mask size": ("SteadyEditTrackMask", {"images": clip(3), "mask": torch.ones(1, 9, 9)}, ValueError,
                  "mask: is 9x9, but the images are 53x75"),
    "empty mask": ("SteadyEditTrackMask", {"images": clip(3), "mask": SQUARE * 0}, ValueError, "mask: is empty"),
    "no memory": ("SteadyEditTrackMask", {"images": clip(3), "mask": SQUARE, "method": "memory"}, ValueError,
                  "method: memory needs a SAM 2 video model"),
    "NaN": ("SteadyEditMaskRefine", {"mask": SQUARE * float("nan")}, ValueError, "mask: it holds NaN"),
    "two words for a frame": ("SteadyEditTextMask", {"images": clip(1), "grounding": Fake, "text": "0: a\n0: b"},
                              ValueError, "text: gives words for a frame twice: 0, 0"),
    "no instruction": ("SteadyEditDescribeRegion", {"instruction": " "}, ValueError, "instruction: is empty"),
    "no region": ("SteadyEditDescribeRegion", {"instruction": "x", "answer": "I think that " * 9}, ValueError,
                  "answer: names no region"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence(case):
    node_id, inputs, error, message = REFUSED[case]
    with pytest.raises(error, match=message) as caught:
        run(node_id, **inputs)
    sentence = str(caught.value)
    assert "\n" not in sentence and len(re.findall(r"\. [A-Z]", sentence)) <= 1


def test_nothing_found_is_an_error_or_an_empty_mask_with_a_warning(grounding, caplog):
    inputs = {"images": clip(2), "grounding": grounding, "text": "dog", "box_threshold": 1.0}
    with pytest.raises(ValueError, match="text: nothing in the clip looks like 'dog' .*lower box_threshold"):
        run("SteadyEditTextMask", **inputs)
    mask, boxes, *_ = run("SteadyEditTextMask", on_nothing="empty mask", **inputs).args
    assert not mask.any() and boxes == [[], []] and "nothing in the clip looks like" in caplog.text


def test_memory_that_runs_out_is_told(sam, monkeypatch):
    def exhausted(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(sam.model), "encode", exhausted)
    with pytest.raises(MemoryError, match="images: memory ran out while segmenting frames of 53x75 one by one"):
        run("SteadyEditPointMask", images=clip(1), sam=sam, positive="5,5")
