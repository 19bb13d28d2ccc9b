"""The core's MultiGPU CFG Split beside the methods: each device takes whole conditions, and the result is that of one.

Two devices that both are the CPU: the host's own copies of the MODEL, threads and scheduling, without a GPU.
"""

from __future__ import annotations

import threading
from itertools import combinations

import comfy.model_management
import pytest
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from steadyedit.backends.comfy_native import toy
from steadyedit.methods.dape.visual_adapter import VisualAdapter
from steadyedit.methods.registry import build_on
from tolerances import RUN
from toys import (
    BACKEND,
    METHODS,
    SAMPLING,
    Quiet,
    assert_untouched,
    clip,
    diffusers_unet,
    text,
    traces,
    weights,
)

multigpu = pytest.importorskip("comfy_extras.nodes_multigpu", reason="this host works on one device")
FRAMES = 3
SETTINGS = {**METHODS, **SAMPLING, "approximate-windows": {"length": 2, "overlap": 1}}


def fresh():
    return toy.unet_from(diffusers_unet().state_dict())


@pytest.fixture
def patcher(monkeypatch):
    """A MODEL whose host has two devices; in ``patcher.at_work`` the threads and networks of its calls."""
    devices = [torch.device("cpu"), torch.device("cpu", 1)]
    monkeypatch.setattr(comfy.model_management, "get_all_torch_devices", lambda exclude_current=False: list(devices))
    found = fresh()
    found.cached_patcher_init = (fresh, ())
    found.at_work, forward = set(), UNetModel.forward

    def watched(network, *args, **kwargs):
        found.at_work.add((threading.get_ident(), id(network)))
        return forward(network, *args, **kwargs)

    monkeypatch.setattr(UNetModel, "forward", watched)
    return found


def on(patcher, *methods, seed=9):
    """The MODEL with methods whose weights are away from their start."""
    generator = torch.Generator().manual_seed(seed)
    for method in methods:
        attachment = build_on(BACKEND, patcher, method, SETTINGS.get(method, {}))
        for parameter in (p for tree in attachment.trees for p in tree.parameters()):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
        patcher = BACKEND.attach(patcher, attachment)
    return patcher


def split(patcher):
    return multigpu.MultiGPUCFGSplitNode.execute(patcher, 2)[0]


def run(patcher, positive=None):
    return BACKEND.sample(patcher, positive or text(1), text(2), 4.0, clip(FRAMES),
                          BACKEND.schedule(patcher).ddim_sigmas(2), Quiet(), sampler="euler", seed=3)  # fmt: skip


@pytest.mark.parametrize(("methods", "order"), [
    (("gather-swap", "norm-tune"), "before"), (("gather-swap",), "after"), (("rave",), "after"),
    (("stam", "approximate-windows"), "after"), (("temporal-attention", "sparse-causal", "joint-norms"), "before"),
    (("simda",), "after"), (("visual-adapter",), "after")], ids=str)  # fmt: skip
def test_every_method_gives_what_it_gives_on_one_device(patcher, methods, order):
    before, marks = weights(patcher), traces(patcher)
    alone = run(on(patcher, *methods))
    plain = run(patcher)
    patcher.at_work.clear()
    both = run(split(on(patcher, *methods)) if order == "after" else on(split(patcher), *methods))
    assert len({network for _, network in patcher.at_work}) == len({thread for thread, _ in patcher.at_work}) == 2
    assert (both - alone).abs().max() < RUN * alone.abs().max()
    assert (both - plain).abs().max() > 10 * RUN * alone.abs().max()
    assert_untouched(patcher, before, marks)


def test_each_device_has_weights_of_its_own_that_follow_the_models(patcher, monkeypatch):
    """In threads one set could not be on two devices at once; and a second run finds what was attached since."""
    used, forward = {}, VisualAdapter.forward

    def watched(module, *args):
        used.setdefault(threading.get_ident(), set()).add(id(module))
        return forward(module, *args)

    monkeypatch.setattr(VisualAdapter, "forward", watched)
    first = on(split(patcher), "visual-adapter")
    one, other = run(first), run(on(first, "visual-adapter", seed=10))
    assert all(not a & b for a, b in combinations(used.values(), 2))
    assert (other - run(on(patcher, "visual-adapter", seed=10))).abs().max() < RUN * one.abs().max()
    assert (other - one).abs().max() > 10 * RUN * one.abs().max()
