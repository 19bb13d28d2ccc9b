"""Segment Anything inside the host: masks equal segment-anything's own predictor, and the host moves the network."""

from __future__ import annotations

from dataclasses import replace

import comfy.model_management
import pytest
import torch
from steadyedit import backends
from steadyedit.vision.segmentation import Prompt, names, segment_frame
from steadyedit.vision.segmentation import load as loading
from steadyedit.vision.segmentation.sam import OfficialEngine, Sam, TransformersEngine
from tiny_vision import FULL_SAM, TINY_SAM, clip, shaken
from tolerances import FLOAT32, RUN

official = pytest.importorskip("segment_anything", reason="these tests need: pip install segment-anything")

BOXES = torch.tensor([[5.0, 6, 30, 40], [10, 10, 52, 70]])
POINTS, LABELS = torch.tensor([[[20.0, 30], [3, 3]], [[40, 60], [50, 2]]]), torch.tensor([[1.0, 0], [1, 0]])
PROMPTS = {
    "boxes": Prompt(boxes=BOXES), "one point": Prompt(points=POINTS[:, :1], labels=LABELS[:, :1]),
    "points": Prompt(points=POINTS, labels=LABELS), "boxes with points": Prompt(BOXES, POINTS, LABELS),
}  # fmt: skip


def both(shape, scale):
    """The same random weights in segment-anything's network and in transformers'."""
    module = shaken(lambda: loading.build_official(shape), scale)
    other = loading.build_transformers(shape)
    loading.load_strictly(other, names.to_transformers(module.state_dict()), "random weights")
    return module, other.eval()


@pytest.fixture(scope="module")
def networks():
    return both(TINY_SAM, 0.05)


def predicted(predictor, prompt, k, multimask, logits=None):
    """segment-anything's own predictor on one object."""
    part = lambda value: None if value is None else value[k].numpy()  # noqa: E731
    masks, scores, low = predictor.predict(
        point_coords=part(prompt.points), point_labels=part(prompt.labels), box=part(prompt.boxes),
        mask_input=None if logits is None else logits[k].numpy(), multimask_output=multimask, return_logits=True)
    return torch.from_numpy(masks), torch.from_numpy(scores), torch.from_numpy(low)


def compare(sam, module, frame, prompt, multimask, tolerance):
    predictor = official.SamPredictor(module)
    predictor.set_image((frame * 255).round().byte().numpy())
    features = sam.encode(frame[None])[0]
    first = sam.predict(features, prompt, multimask)
    for k in range(prompt.count):
        for got, wanted in zip((part[k] for part in first), predicted(predictor, prompt, k, multimask)):
            torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)
    return predictor, features, first


@pytest.mark.parametrize("multimask", [False, True])
@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("engine", [OfficialEngine, TransformersEngine])
def test_masks_equal_segment_anythings_predictor(networks, engine, prompt, multimask):
    sam = Sam(engine(networks[engine is TransformersEngine]))
    prompt = PROMPTS[prompt]
    predictor, features, first = compare(sam, networks[0], clip()[1], prompt, multimask, 1e-5)
    again = Prompt(prompt.boxes, prompt.points, prompt.labels, first.logits[:, :1])
    second = sam.predict(features, again, multimask)
    for k in range(prompt.count):
        masks, _, _ = predicted(predictor, prompt, k, multimask, first.logits[:, :1, None][:, 0])
        torch.testing.assert_close(second.masks[k], masks, atol=FLOAT32, rtol=FLOAT32)


@pytest.mark.slow
def test_vit_b_at_its_true_size():
    """Both implementations, on a frame of an odd size, against the predictor; three of its twelve blocks, one global.

    Each block is like another: twelve of them would take four times as long and show no more.
    """
    module, other = both(replace(FULL_SAM["vit_b"], depth=3, global_layers=(2,)), 0.01)
    with torch.device("meta"):
        own = official.sam_model_registry["vit_b"]().state_dict()
    assert {k: v.shape for k, v in module.state_dict().items()}.items() <= {k: v.shape for k, v in own.items()}.items()
    frame = clip(1, 241, 157)[0]
    prompt = Prompt(boxes=torch.tensor([[20.0, 31, 130, 200]]))
    _, features, first = compare(Sam(OfficialEngine(module)), module, frame, prompt, False, 1e-4)
    del module
    sam = Sam(TransformersEngine(other))
    (encoded,) = sam.encode(frame[None])
    torch.testing.assert_close(encoded.embedding, features.embedding, atol=RUN, rtol=RUN)
    torch.testing.assert_close(segment_frame(sam, encoded, prompt).masks, first.masks, atol=RUN, rtol=RUN)


def test_the_three_official_sizes_have_segment_anythings_keys():
    for name, shape in FULL_SAM.items():
        with torch.device("meta"):
            own = official.sam_model_registry[name]()
        assert sorted(names.official_names(shape)) == sorted(own.state_dict())
        assert names.shape_of(own.state_dict()) == shape


def test_an_official_file_runs_through_segment_anything(networks, tmp_path):
    torch.save(networks[0].state_dict(), tmp_path / "sam_vit_t.pth")
    sam = loading.load_segmenter(tmp_path / "sam_vit_t.pth")
    assert isinstance(sam.engine, OfficialEngine)
    converted = loading.load_segmenter(tmp_path / "sam_vit_t.pth", engine="transformers")
    masks = [segment_frame(s, s.encode(clip(1))[0], PROMPTS["boxes"]).masks for s in (sam, converted)]
    torch.testing.assert_close(*masks, atol=FLOAT32, rtol=FLOAT32)


def test_the_host_counts_loads_and_frees_it(networks):
    """Among the host's loaded models while somebody holds it, gone when nobody does."""
    manager = backends.manager()
    kept = manager.manage(networks[0])
    kept.load(10**6)
    loaded = lambda: [m for m in comfy.model_management.current_loaded_models if m.model is kept.patcher]  # noqa: E731
    assert len(loaded()) == 1
    size = sum(p.numel() * p.element_size() for p in networks[0].parameters())
    assert kept.patcher.model_size() >= size
    sam = Sam(OfficialEngine(networks[0]))
    before = segment_frame(sam, sam.encode(clip(1))[0], PROMPTS["boxes"]).masks
    comfy.model_management.unload_all_models()
    assert not loaded()
    kept.load()
    assert torch.equal(segment_frame(sam, sam.encode(clip(1))[0], PROMPTS["boxes"]).masks, before)
    comfy.model_management.unload_all_models()


def test_in_inference_mode_it_works_as_outside(networks):
    sam = Sam(OfficialEngine(networks[0]))
    with torch.inference_mode():
        inside = segment_frame(sam, sam.encode(clip(1))[0], PROMPTS["points"]).masks
    assert torch.equal(inside, segment_frame(sam, sam.encode(clip(1))[0], PROMPTS["points"]).masks)
