"""What the tests of a process share."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch


def shared(build: Callable[..., Any]) -> Callable[..., Any]:
    """``build``'s result, built once for each arguments.

    Built outside of inference mode, whichever test asks first: autograd refuses the tensors that are made within it,
    and the order of tests differs from run to run.
    """
    return lru_cache(torch.inference_mode(False)(build))
