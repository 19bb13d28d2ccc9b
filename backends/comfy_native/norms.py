"""Norm layers that a method adjusts: found, and replaced with the host's own weights lent to the method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock

from ...methods.attachment import NormSite
from ..forwards import forward_replaced
from .blocks import PARTS, unet_of
from .devices import on_device_of
from .frozen_layers import borrowed_weights

if TYPE_CHECKING:
    from torch import Tensor, nn

#: Norm layers of a module by its class, in the order in which its forward asks them.
INSIDE = (
    (ResBlock, "resnet", ("in_layers.0", "out_layers.0")),
    (SpatialTransformer, "attention", ("norm",)),
    (BasicTransformerBlock, "attention", ("norm1", "norm2", "norm3")),
)


def located_norms(unet: nn.Module) -> Iterator[tuple[NormSite, nn.Module]]:
    """Every norm layer of a U-Net over space, in the order of the forward pass."""
    for part in PARTS:
        for name, module in getattr(unet, part).named_modules():
            # Video U-Nets have layers over time inside of those over space.
            if "time_" in name:
                continue
            for kind, label, inside in INSIDE:
                for path in inside if isinstance(module, kind) else ():
                    layer = module
                    for word in path.split("."):
                        layer = getattr(layer, word, None)
                    if layer is not None:
                        yield _site(f"{part}.{name}.{path}", label, layer), layer
    yield _site("out.0", "final", unet.out[0]), unet.out[0]


def _site(path: str, kind: str, layer: nn.Module) -> NormSite:
    return NormSite(path, kind, layer.weight.numel(), getattr(layer, "num_groups", 0), layer.eps)


def norms_of(model: Any) -> list[NormSite]:
    """``Backend.norms``.

    Raises:
        TypeError: the MODEL is no U-Net.
    """
    return [site for site, _ in located_norms(unet_of(model))]


def adjusted(
    layer: nn.Module, module: nn.Module, training: bool = False, branches: Callable[[], int] = lambda: 1
) -> Callable[[Tensor], Tensor]:
    """Forward of a norm layer that ``module`` answers for.

    Args:
        layer: the host's; its weight and bias are lent to the module as the host would use them now.
        module: ``module(z, weight, bias, groups, eps) -> z``.
        training: autograd keeps the weights, which must be ordinary tensors of our own then.
        branches: conditions in the batch of the call under way.
    """
    groups = getattr(layer, "num_groups", 0)

    def forward(z: Tensor) -> Tensor:
        with borrowed_weights(layer, z) as (weight, bias):
            if training:
                weight, bias = (None if w is None else w.detach().clone() for w in (weight, bias))
            more = {"branches": branches()} if getattr(module, "joint", False) else {}
            return on_device_of(module, z)(z, weight, bias, groups, layer.eps, **more)

    return forward


@contextmanager
def norms_adjusted(unet: nn.Module, norms: Mapping[str, nn.Module], branches: int) -> Iterator[None]:
    """The norm layers named by ``norms`` (path -> module) replaced, inside the ``with``.

    Args:
        branches: conditions in the batch of this call.
    """
    with ExitStack() as stack:
        for path, module in norms.items():
            layer = unet.get_submodule(path)
            stack.enter_context(forward_replaced(layer, adjusted(layer, module, branches=lambda: branches)))
        yield
