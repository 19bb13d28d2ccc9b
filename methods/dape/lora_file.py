"""gamma and beta as a LoRA file: differences of norm weights under the keys that hosts load."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

PREFIX = "norm-tune."

#: The suffix of a whole difference, as LoRA files have it, by the parameter.
SUFFIXES = {"gamma": "diff", "beta": "diff_b"}


def norm_lora(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The part of tuned norms that is an ordinary change of weights: W + gamma and b + beta.

    With gamma0 = 0 it is all of them; gamma0 goes with no LoRA loader.

    Args:
        tensors: of tuned weights, ``norm-tune.<norm path>.<gamma|beta|gamma0>``; others are passed over.

    Returns:
        ``diffusion_model.<norm path>.diff`` [channels] and ``.diff_b`` [channels], float32.

    Raises:
        ValueError: there is no gamma and no beta among them.
    """
    lora = {}
    for key, tensor in tensors.items():
        path, _, name = key.removeprefix(PREFIX).rpartition(".")
        if key.startswith(PREFIX) and name in SUFFIXES:
            lora[f"diffusion_model.{path}.{SUFFIXES[name]}"] = tensor.detach().float().cpu().clone()
    if not lora:
        raise ValueError("weights: hold no tuned norms; connect the weights of Norm-Tune.")
    return lora
