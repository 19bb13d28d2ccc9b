"""Settings that nobody gives are the papers' (their sections are named), not what somebody last tried."""

from __future__ import annotations

import argparse
import inspect
import json
from pathlib import Path

import pytest
from steadyedit import nodes
from steadyedit.curation.run import Settings
from steadyedit.curation.standard import spread
from steadyedit.methods.dape.recipes import ADAPTER_TUNING, JOINT_TUNING, NORM_TUNING
from steadyedit.methods.lora_edit import masks
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.null_text import NullTextRecipe
from steadyedit.methods.prompt_to_prompt import LocalBlend, PromptToPrompt
from steadyedit.methods.rave.shuffling import Rave
from steadyedit.methods.tune_recipe import TuneRecipe
from steadyedit.methods.via.adapt import AdaptRecipe
from steadyedit.methods.via.gather_swap import GatherSwap
from steadyedit.standalone import host_api
from steadyedit.standalone.curate import add_curate

GRAPHS = Path(__file__).resolve().parents[1] / "workflows" / "api"
LORA_EDIT_WAN = sorted(path.stem for path in GRAPHS.glob("lora_edit_wan*.json"))


def graph(name):
    return json.loads((GRAPHS / f"{name}.json").read_text(encoding="utf-8"))


def of_type(found, node_type):
    """Inputs of the graph's nodes of a type."""
    return [node["inputs"] for node in found.values() if node["class_type"] == f"SteadyEdit{node_type}"]


def test_one_shot_tuning():
    """EI2, section 5, and Tune-A-Video: AdamW as PyTorch has it, 500 steps at 3e-5."""
    recipe = TuneRecipe()
    assert (recipe.steps, recipe.learning_rate, recipe.betas, recipe.weight_decay) == (500, 3e-5, (0.9, 0.999), 1e-2)
    assert (recipe.max_grad_norm, recipe.loss, recipe.queries, recipe.seed) == (1.0, "mse", True, 0)


def test_dape():
    """Section 5.1: 400 steps at 5e-5, then 70 at 1e-5, Huber loss with delta 1; Table 3 trains both at once."""
    stages = [(r.steps, r.learning_rate, r.loss, r.delta, r.queries)
              for r in (NORM_TUNING, ADAPTER_TUNING, JOINT_TUNING)]  # fmt: skip
    assert stages == [(400, 5e-5, "huber", 1.0, False), (70, 1e-5, "huber", 1.0, False),
                      (470, 5e-5, "huber", 1.0, False)]  # fmt: skip


def test_gather_swap():
    """VIA, section 4: a group of four, both attentions of all blocks, the first 8 of 10 steps."""
    swap = GatherSwap()
    assert (swap.group, swap.frames, swap.start, swap.end, swap.blocks) == (4, (), 0.0, 0.8, "all")
    assert (swap.kinds, swap.gather, swap.own_keys, swap.chunk) == (("self", "cross"), True, False, 0)


def test_adaptation():
    """The paper gives the augmentation alone; the rest was chosen once, and tables were measured with it."""
    recipe = AdaptRecipe()
    assert (recipe.training.steps, recipe.training.learning_rate, recipe.training.queries) == (150, 1e-4, False)
    assert (recipe.rank, recipe.batch, recipe.variants, recipe.dropout) == (16, 4, 48, 0.05)


def test_mask_aware_lora():
    """LoRA-Edit's code: rank 16, 100 steps at 1e-4, betas 0.9 and 0.99."""
    recipe = MaskLoRARecipe()
    assert (recipe.training.steps, recipe.training.learning_rate, recipe.training.betas) == (100, 1e-4, (0.9, 0.99))
    assert (recipe.rank, recipe.training.queries, recipe.sigmas) == (16, False, (0.0, 1.0))


def test_lora_edit_boxes():
    """LoRA-Edit's code: boxes whose sides move out by 0.05, those of fewer than 50 pixels dropped."""
    given = inspect.signature(masks.boxes).parameters
    assert (given["growth"].default, given["smallest"].default) == (0.05, 50)
    with host_api.installed():
        box = next(node for node in nodes.node_list() if node.GET_SCHEMA().node_id == "SteadyEditBoxMask")
        inputs = {one.id: one for one in box.define_schema().inputs}
    assert [inputs[name].settings["default"] for name in ("growth", "smallest")] == [0.05, 50]
    assert inputs["shape"].options[0] == "boxes" and "default" not in inputs["shape"].settings
    for name in LORA_EDIT_WAN:
        (shipped,) = of_type(graph(name), "BoxMask")
        assert (shipped["shape"], shipped["growth"], shipped["smallest"]) == ("boxes", 0.05, 50), name


def test_lora_edit_second_stage():
    """LoRA-Edit's code: 10 (1 + 9 n) steps for n edited frames, each met 9 times as often as the clip."""
    found = graph("lora_edit_wan_reference_frames")
    first, second = sorted(of_type(found, "MaskLoRATrain"), key=lambda inputs: "lora" in inputs)
    frames, clip = [], found[second["samples"][0]]
    while clip["class_type"] == "SteadyEditFrameSample":
        frames.append(clip["inputs"]["repeats"])
        clip = found[clip["inputs"]["samples"][0]]
    assert frames and frames == [9] * len(of_type(found, "FrameSample"))
    assert clip["class_type"] == "SteadyEditMaskSample" and clip["inputs"]["repeats"] == 1
    assert (first["steps"], second["steps"]) == (MaskLoRARecipe().training.steps, 10 * (1 + 9 * len(frames)))


def test_lora_edit_negative_prompt():
    """LoRA-Edit's code: Wan's own long negative prompt, the same in every graph."""
    assert len(LORA_EDIT_WAN) == 4
    said = set()
    for name in LORA_EDIT_WAN:
        found = graph(name)
        for condition in of_type(found, "MaskCondition"):
            said.add(found[condition["negative"][0]]["inputs"]["text"])
    (words,) = said
    assert len(words) > 200 and words.startswith("Overexposure, static, blurred details, subtitles, ")


def test_rave():
    """Section 4: grids of three by three, shuffled."""
    rave = Rave()
    assert (rave.grid, rave.seed, rave.shuffle, rave.chunk) == (3, 0, True, 0)


def test_null_text_inversion():
    """Mokady et al.'s code: guidance 7.5, 10 steps of Adam, 1e-2 (1 - i / 100), until 1e-5 + 2e-5 i, in 50 steps."""
    recipe = NullTextRecipe()
    assert (recipe.guidance, recipe.inner_steps, recipe.learning_rate, recipe.stop) == (7.5, 10, 1e-2, 1e-5)
    assert [recipe.rate(i, 50) for i in (0, 30)] == [1e-2, 1e-2 * (1 - 30 / 100)]
    assert [recipe.good_enough(i, 50) for i in (0, 30)] == pytest.approx([1e-5, 1e-5 + 30 * 2e-5])


def test_prompt_to_prompt():
    """Hertz et al.'s code for real pictures: 0.8 and 0.4 of the steps, up to 32x32 cells; blend above 0.3 after 0.2."""
    control, blend = PromptToPrompt(source=None, alignment=None), LocalBlend(None, 0)
    assert (control.cross_steps, control.self_steps, control.self_size, control.chunk) == (0.8, 0.4, 32, 0)
    assert (blend.threshold, blend.start) == (0.3, 0.2)


def test_curation():
    """DAPE, section 4 and A.1: 512x512, 32, 64 or 128 frames, of which eight are described.

    Bounds of the motion it states none; 0.1 to 5 % are this pack's, and its manual says so.
    """
    parser = argparse.ArgumentParser()
    add_curate(parser.add_subparsers())
    options = parser.parse_args(["curate", "clips", "--output", "set"])
    settings = Settings((), Path())
    assert (settings.size, settings.lengths) == (options.size, (32, 64, 128)) and options.size == 512
    assert options.frames == "32,64,128" and inspect.signature(spread).parameters["count"].default == 8
    assert (settings.least, settings.most) == (options.least_motion, options.most_motion) == (0.1, 5.0)
    assert settings.find_cuts and not options.no_cuts
