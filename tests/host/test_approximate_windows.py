"""Approximate windows on the host's MODEL: equal to diffusers, none where there is one, and the MODEL as it was."""

from __future__ import annotations

import pytest
import torch
from steadyedit import nodes
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.methods.registry import build
from tolerances import RUN
from toys import (
    BACKEND,
    METHODS,
    Quiet,
    assert_close,
    assert_untouched,
    clip,
    diffusers_unet,
    model,
    moved,
    text,
    traces,
    weights,
)

FRAMES, STEPS = 7, 2
WINDOWS = {"length": 4, "overlap": 2, "anchors": "keyframes", "keyframes": 2}
OTHER = DiffusersBackend()


def levels():
    return BACKEND.schedule(model()).ddim_sigmas(STEPS)


def with_methods(backend, value, *methods, **windows):
    for method in methods:
        value = backend.attach(value, moved(build(method, backend.sites(value), METHODS[method])))
    return backend.attach(value, build("approximate-windows", [], windows)) if windows else value


def run(backend, value, frames=FRAMES, sampler="euler"):
    return backend.sample(value, text(1), text(2), 4.0, clip(frames), levels(), Quiet(), sampler=sampler, seed=3)


@pytest.mark.parametrize("methods", [("stam", "ffam"), ("sparse-causal",)], ids=str)
def test_both_backends_agree(methods):
    here = run(BACKEND, with_methods(BACKEND, model(), *methods, **WINDOWS))
    assert_close(here, run(OTHER, with_methods(OTHER, DiffusersModel(diffusers_unet()), *methods, **WINDOWS)), RUN)


def test_in_one_window_it_is_the_method_and_the_model_is_as_it_was():
    plain = model()
    before, marks, alone = weights(plain), traces(plain), run(BACKEND, plain)
    whole = run(BACKEND, with_methods(BACKEND, plain, "stam", "ffam"))
    cut = with_methods(BACKEND, plain, "stam", "ffam", length=FRAMES, overlap=0)
    assert torch.equal(run(BACKEND, cut), whole)
    assert (run(BACKEND, with_methods(BACKEND, plain, "stam", "ffam", **WINDOWS)) - whole).abs().max() > 1e-3
    assert torch.equal(run(BACKEND, with_methods(BACKEND, plain, **WINDOWS)), alone)
    assert torch.equal(run(BACKEND, plain), alone)
    assert_untouched(plain, before, marks)


def test_the_inversion_has_the_same_windows(caplog):
    def inverted(backend, value):
        return backend.invert(value, text(3), clip(FRAMES), levels().flip(0), 0, Quiet())[-1]

    here = inverted(BACKEND, with_methods(BACKEND, model(), "stam", **WINDOWS))
    there = inverted(OTHER, with_methods(OTHER, DiffusersModel(diffusers_unet()), "stam", **WINDOWS))
    assert_close(here, there, RUN)
    assert (here - inverted(BACKEND, with_methods(BACKEND, model(), "stam"))).abs().max() > 1e-4
    assert "sigmas:" not in caplog.text


def test_room_is_made_for_a_window(monkeypatch):
    asked = []
    import comfy.model_base

    memory = comfy.model_base.BaseModel.memory_required
    monkeypatch.setattr(comfy.model_base.BaseModel, "memory_required",
                        lambda self, shape, **more: asked.append(shape[0]) or memory(self, shape, **more))
    run(BACKEND, with_methods(BACKEND, model(), "stam", **WINDOWS))
    assert asked and max(asked) <= 2 * 6  # two conditions of four frames and two keyframes


def test_core_context_windows_are_refused_beside_it():
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    settings = {"context_schedule": "standard_static", "context_stride": 1, "closed_loop": False, "dim": 0,
                "fuse_method": "pyramid", "freenoise": False}
    patcher = with_methods(BACKEND, model(), "stam", **WINDOWS)
    both = ContextWindowsManualNode.execute(patcher, 4, 2, **settings)[0]
    with pytest.raises(ValueError, match="model: has context windows"):
        run(BACKEND, both)


def test_by_the_node():
    known = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
    with torch.inference_mode():
        stam = known["SteadyEditFFAM"].execute(model(), 2, "all")[0]
        out = known["SteadyEditApproximateWindows"].execute(stam, 4, 2, "first", 4)[0]
    plan = out.model_options["transformer_options"]["steadyedit"].attachments[-1].plan
    assert (plan.length, plan.overlap, plan.anchors, plan.keyframes) == (4, 2, "first", 4)
    assert run(BACKEND, out).shape == clip(FRAMES).shape
    with pytest.raises(ValueError, match="overlap: expected 0 to 3"):
        known["SteadyEditApproximateWindows"].execute(stam, 4, 4, "first", 4)
