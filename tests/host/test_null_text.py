"""Null-text inversion on the host's MODEL: equal to diffusers, and the host's own sampler gives the clip back."""

from __future__ import annotations

import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from steadyedit import nodes
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.null_text import NullTextRecipe, invert
from tolerances import RUN
from toys import BACKEND, Quiet, assert_close, assert_untouched, clip, diffusers_unet, model, text, traces, weights

FRAMES, STEPS, GUIDANCE = 2, 2, 4.0
OTHER = DiffusersBackend()


def inverted(backend, value, **settings):
    recipe = NullTextRecipe(GUIDANCE, **{"inner_steps": 2, "learning_rate": 0.05, "stop": 0.0, **settings})
    return invert(backend, value, clip(FRAMES), text(1), text(2), STEPS, recipe, progress=Quiet())


def test_both_backends_agree():
    here = inverted(BACKEND, model())
    there = inverted(OTHER, DiffusersModel(diffusers_unet()))
    assert here.losses == pytest.approx(there.losses, rel=10 * RUN)
    assert all(text.shape[0] == FRAMES for text, _ in here.negative)
    sampled = [backend.sample(value, text(1), found.negative, GUIDANCE, found.trajectory[-1].float(), found.sigmas,
                              Quiet()) for backend, value, found in (
        (BACKEND, model(), here), (OTHER, DiffusersModel(diffusers_unet()), here))]  # fmt: skip
    assert_close(*sampled, RUN)


def test_the_nodes_in_a_row(tmp_path, monkeypatch):
    """In inference mode, as prompts run; the model stays as it was, and what was found is found again."""
    monkeypatch.setattr(type(BACKEND), "weights_folder", lambda self: tmp_path)
    known = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
    node, plain, euler = known["SteadyEditNullTextInversion"], model(), custom.KSamplerSelect.execute("euler")[0]
    before, marks = weights(plain), traces(plain)
    given = {"steps": STEPS, "guidance": GUIDANCE, "inner_steps": 6, "learning_rate": 0.1, "stop": 0.0,
             "per_frame": True, "reuse": True}
    with torch.inference_mode():
        latent, levels, negative, losses = node.execute(plain, text(1), text(2), {"samples": clip(FRAMES)}, **given)

        def back(negative, cfg):
            return custom.SamplerCustom.execute(plain, False, 0, cfg, text(1), negative, euler, levels,
                                                latent)[0]["samples"]

        wrong = [(back(*how) - clip(FRAMES)).square().mean() for how in ((negative, GUIDANCE), (text(2), GUIDANCE))]
        again = node.execute(plain, text(1), text(2), {"samples": clip(FRAMES)}, **given)
    assert wrong[0] < 0.7 * wrong[1]
    assert len(losses["loss"]) == STEPS and again[3] == losses
    assert all(torch.equal(a[0], b[0]) for a, b in zip(again[2], negative, strict=True))
    assert_untouched(plain, before, marks)
    with pytest.raises(ValueError, match="latent: carries a noise mask"):
        node.execute(plain, text(1), text(2), {"samples": clip(FRAMES), "noise_mask": clip(FRAMES)}, **given)
    with pytest.raises(ValueError, match="guidance: at 1 the sampler leaves the unconditional text out"):
        node.execute(plain, text(1), text(2), {"samples": clip(FRAMES)}, **given | {"guidance": 1.0})
