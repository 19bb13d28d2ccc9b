"""DAPE's attachments with weights away from their start, for the host's tests."""

from __future__ import annotations

import torch
from steadyedit.methods.registry import build_on
from toys import BACKEND

NORMS = {"kinds": ["resnet", "attention", "final"], "gamma0": "channel"}
ADAPTER = {"positions": [3, 5], "bottleneck": 8, "kernel": 3}
CONFIGS = {"norm-tune": NORMS, "visual-adapter": ADAPTER}


def dape(model, *methods: str, backend=BACKEND, scale: float = 0.0, **changes):
    """Attachments of the named methods (both if none), each parameter moved by ``scale`` at random."""
    found, generator = [], torch.Generator().manual_seed(9)
    for method in methods or CONFIGS:
        with torch.inference_mode(False), torch.no_grad():
            attachment = build_on(backend, model, method, {**CONFIGS[method], **changes})
            for tree in attachment.trees:
                for parameter in tree.parameters() if scale else ():
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
        found.append(attachment)
    return found


def with_dape(model, *methods: str, backend=BACKEND, scale: float = 0.1, **changes):
    """A MODEL with them attached."""
    for attachment in dape(model, *methods, backend=backend, scale=scale, **changes):
        model = backend.attach(model, attachment)
    return model
