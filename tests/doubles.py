"""Small clips, conditions and models for tests of methods on the test double."""

from __future__ import annotations

from dataclasses import replace

import torch
from double import DoubleBackend, double_model
from double.unet import CONTEXT, DoubleState
from steadyedit.methods.registry import build_on

FRAMES, HEIGHT, WIDTH = 3, 5, 6
METHODS = ["stam", "ffam", "sparse-causal", "temporal-attention", "full-attention", "simda", "norm-tune",
           "visual-adapter"]
# Nothing of these is tuned or saved, and outside of sampling they do nothing; with settings where they need some.
SAMPLING_ONLY = {"gather-swap": {}, "rave": {}, "tokenflow": {"source": None},
                 "prompt-to-prompt": {"source": None, "alignment": None}}
# The double has four attention stages, and its decoder's first is the last of them.
CONFIGS = {"visual-adapter": {"positions": [4]}, **SAMPLING_ONLY}


def clip(frames=FRAMES, seed=0):
    """LATENT samples."""
    return 5 * torch.randn(frames, 4, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))


def condition(seed=0, dtype=torch.float32):
    """A CONDITIONING."""
    return [[torch.randn(1, 7, CONTEXT, generator=torch.Generator().manual_seed(seed)).to(dtype), {}]]


def with_methods(*methods, **configs):
    """A backend, a MODEL, and the MODEL with methods attached."""
    backend, model = DoubleBackend(), double_model()
    attached = model
    for method in methods:
        config = configs.get(method.replace("-", "_"), CONFIGS.get(method, {}))
        attached = backend.attach(attached, build_on(backend, model, method, config))
    return backend, model, attached


def predict(model, samples, conditioning, timestep=300, branches=1):
    """epsilon_theta for ``branches`` copies of a clip in one call."""
    context = conditioning[0][0].expand(len(samples), -1, -1)
    with torch.no_grad():
        return model.unet(samples, torch.as_tensor(timestep), context, model.attached, len(samples) // branches)


def randomised(model, seed=5, scale=0.5):
    """A copy whose attached modules hold random weights, as after a long training."""
    backend = DoubleBackend()
    generator = torch.Generator().manual_seed(seed)
    attachments = []
    for attachment in model.attached.attachments:
        copy = build_on(backend, model, attachment.method, attachment.config)
        for parameter in (p for tree in copy.trees for p in tree.parameters()):
            parameter.data = scale * torch.randn(parameter.shape, generator=generator)
        attachments.append(copy)
    return replace(model, attached=DoubleState(tuple(attachments), model.attached.deltas))
