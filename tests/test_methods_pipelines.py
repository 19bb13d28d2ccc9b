"""The papers as one call: attach, tune, invert, sample."""

from __future__ import annotations

import pytest
import torch
from doubles import clip, condition, predict, with_methods
from steadyedit.methods.ei2.pipeline import edit_clip as edit_by_ei2
from steadyedit.methods.tune_a_video.pipeline import edit_clip as edit_by_tune_a_video
from steadyedit.methods.tuning import PUBLISHED, TuneRecipe
from tolerances import RUN

RECIPE = TuneRecipe(steps=2, learning_rate=1e-3)
SOURCE, TARGET, EMPTY = condition(0), condition(1), condition(2)
PIPELINES = [edit_by_ei2, edit_by_tune_a_video]


def run(pipeline, target=TARGET, recipe=RECIPE, **options):
    backend, model, _ = with_methods()
    result = pipeline(backend, model, clip(), SOURCE, target, EMPTY, recipe, **{"steps": 5, **options})
    assert model.attached.attachments == ()
    return result


def test_the_defaults_are_the_papers():
    assert (PUBLISHED.steps, PUBLISHED.learning_rate, PUBLISHED.betas) == (500, 3e-5, (0.9, 0.999))
    assert (PUBLISHED.weight_decay, PUBLISHED.max_grad_norm) == (1e-2, 1.0)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_clip_is_edited(pipeline):
    result = run(pipeline)
    assert result["samples"].shape == clip().shape and result["samples"].isfinite().all()
    assert len(result["trajectory"]) == len(result["sigmas"]) == 6
    assert result["trajectory"][0].allclose(clip()) and result["inverted"] is result["trajectory"][-1]
    assert result["timings"].keys() == {"tuning", "inversion", "sampling"}
    assert len(result["tuned"].losses) == 2
    assert run(pipeline)["samples"].equal(result["samples"])


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_without_guidance_the_source_comes_back(pipeline):
    """Inversion and sampling under one condition are inverse where each step is refined."""
    plain, refined = (
        run(pipeline, SOURCE, guidance=1, steps=10, inversion_cond=SOURCE, refinement=n)["samples"] for n in (0, 30)
    )
    assert (refined - clip()).abs().max() < RUN * clip().abs().max()
    assert (refined - clip()).abs().max() < 0.1 * (plain - clip()).abs().max()


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_option_counts(pipeline):
    before = run(pipeline)["samples"]
    options = [
        {"guidance": 3.0},
        {"steps": 4},
        {"refinement": 1},
        {"seed": 1},
        {"inversion_cond": SOURCE},
        {"target": SOURCE},
        {"recipe": TuneRecipe(steps=2, learning_rate=1e-2)},
    ]
    if pipeline is edit_by_ei2:
        options += [{"ratio": 3}, {"blocks": "up"}]
    for changed in options:
        assert not run(pipeline, **changed)["samples"].equal(before), changed


def test_a_second_edit_does_not_train(tmp_path):
    first = run(edit_by_ei2, cache=tmp_path)
    second = run(edit_by_ei2, target=condition(7), cache=tmp_path)
    assert not first["tuned"].from_cache and second["tuned"].from_cache
    timestep = torch.tensor(200)
    models = [result["tuned"].model for result in (first, second)]
    assert predict(models[0], clip(), SOURCE, timestep).equal(predict(models[1], clip(), SOURCE, timestep))
