"""Settings that nobody gives are the papers' (their sections are named), not what somebody last tried."""

from __future__ import annotations

import pytest
from steadyedit.methods.dape.recipes import ADAPTER_TUNING, JOINT_TUNING, NORM_TUNING
from steadyedit.methods.lora_edit.recipe import MaskLoRARecipe
from steadyedit.methods.null_text import NullTextRecipe
from steadyedit.methods.prompt_to_prompt import LocalBlend, PromptToPrompt
from steadyedit.methods.rave.shuffling import Rave
from steadyedit.methods.tune_recipe import TuneRecipe
from steadyedit.methods.via.adapt import AdaptRecipe
from steadyedit.methods.via.gather_swap import GatherSwap


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
