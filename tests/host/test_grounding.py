"""Grounding DINO through groundingdino-py: boxes equal its own helper's, and transformers' on the same weights."""

from __future__ import annotations

import pytest
import torch
from steadyedit.vision.grounding import load as loading
from steadyedit.vision.grounding import names, official_network
from steadyedit.vision.grounding.detector import Detector
from tiny_vision import TINY_GROUNDING, clip, shaken, vocabulary
from tolerances import FLOAT32, NETWORK, RUN

pytest.importorskip("groundingdino", reason="these tests need: pip install groundingdino-py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An official file with BERT's tokenizer beside it."""
    root = tmp_path_factory.mktemp("grounding-dino")
    tokenizer = loading.find_tokenizer([vocabulary(root / "bert-base-uncased")])
    module = shaken(lambda: official_network.build(TINY_GROUNDING, tokenizer), 0.01)
    torch.save({"model": {f"module.{key}": value for key, value in module.state_dict().items()}}, root / "tiny.pth")
    return root


@pytest.fixture(scope="module")
def detectors(folder):
    """One file, through both implementations, on small pictures."""
    both = [loading.load_detector(folder / "tiny.pth", engine=engine) for engine in ("groundingdino", "transformers")]
    for detector in both:
        detector.shorter, detector.longer = 96, 160
    return both


def test_the_sizes_are_read_off_the_keys(detectors):
    assert names.shape_of(detectors[0].module.state_dict()) == TINY_GROUNDING
    assert official_network.works(TINY_GROUNDING)


def test_both_implementations_give_the_same(detectors):
    """Box coordinates in pixels and scores, on the same converted weights."""
    frames = clip(2)
    tokens = detectors[0].tokens("a dog . red ball .")
    with torch.no_grad():
        (a, boxes_a), (b, boxes_b) = (d.network.run(d.pixels(frames), "a dog . red ball .", tokens) for d in detectors)
    torch.testing.assert_close(boxes_a, boxes_b, atol=FLOAT32, rtol=0)
    torch.testing.assert_close(a.sigmoid(), b.sigmoid(), atol=NETWORK, rtol=0)


def test_boxes_equal_groundingdinos_own_helper(detectors, tmp_path):
    from groundingdino.datasets import transforms
    from groundingdino.util.inference import predict
    from PIL import Image

    detector, frame = detectors[0], clip(1)[0]
    picture = Image.fromarray((frame * 255).round().byte().numpy())
    steps = transforms.Compose([transforms.RandomResize([96], max_size=160), transforms.ToTensor(),
                                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    pixels, _ = steps(picture, None)
    torch.testing.assert_close(detector.pixels(frame[None])[0], pixels, atol=FLOAT32, rtol=0)
    boxes, scores, phrases = predict(detector.module, pixels, "Dog . red ball", 0.0, 0.5, "cpu")
    (found,) = detector.detect(frame[None], "Dog. red ball", 0.0, 0.5)
    scale = torch.tensor([53.0, 75, 53, 75])
    corners = torch.cat([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1) * scale
    corners = corners.clamp(min=0).minimum(scale)
    rows = torch.tensor([[b["x"], b["y"], b["x"] + b["width"], b["y"] + b["height"], b["score"]] for b in found])
    assert len(rows) == len(corners) > 3
    # Which of two that score alike comes first is open: each box has its like on the other side.
    apart = torch.cdist(rows, torch.cat([corners, scores[:, None]], 1))
    assert max(apart.min(0).values.max(), apart.min(1).values.max()) < RUN
    # Its phrases may hold the marks of the text's two ends; a label has words only.
    plain = {" ".join(word for word in phrase.split() if word not in ("[CLS]", "[SEP]")) for phrase in phrases}
    assert {box["label"] for box in found} == plain


def test_the_package_is_left_as_it_was(folder):
    """Its ways to a text encoder are replaced while a network is built, and only then."""
    import importlib

    module = importlib.import_module(official_network.MODULE)
    before = (module.get_tokenlizer, module.BertModelWarper)
    loading.load_detector(folder / "tiny.pth", engine="groundingdino")
    assert (module.get_tokenlizer, module.BertModelWarper) == before


def test_an_official_file_runs_through_the_package_where_it_works(folder, monkeypatch):
    assert isinstance(loading.load_detector(folder / "tiny.pth").network, official_network.OfficialNetwork)
    monkeypatch.setattr(official_network, "works", lambda shape: False)
    assert not isinstance(loading.load_detector(folder / "tiny.pth").network, official_network.OfficialNetwork)


def test_chunks_change_nothing(detectors):
    for detector in detectors:
        assert isinstance(detector, Detector)
        together = detector.detect(clip(2), "dog", 0.0)
        alone = [detector.detect(frame[None], "dog", 0.0)[0] for frame in clip(2)]
        for a, b in zip(together, alone):
            assert [x["score"] for x in a] == pytest.approx([x["score"] for x in b], abs=NETWORK)
