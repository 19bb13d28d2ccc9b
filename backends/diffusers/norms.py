"""Norm layers by their names in LDM checkpoints, and their place taken by what a method attaches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ...methods.attachment import Attachment, NormSite
from .paths import layers

if TYPE_CHECKING:
    from torch import Tensor, nn


def located_norms(unet: nn.Module) -> Iterator[tuple[NormSite, nn.Module]]:
    """Every norm layer of a ``UNet2DConditionModel`` in the order of the forward pass."""
    for path, module in layers(unet):
        if hasattr(module, "conv1"):
            yield _site(f"{path}.in_layers.0", "resnet", module.norm1), module.norm1
            yield _site(f"{path}.out_layers.0", "resnet", module.norm2), module.norm2
            continue
        yield _site(f"{path}.norm", "attention", module.norm), module.norm
        for k, block in enumerate(module.transformer_blocks):
            for name in ("norm1", "norm2", "norm3"):
                layer = getattr(block, name)
                yield _site(f"{path}.transformer_blocks.{k}.{name}", "attention", layer), layer
    yield _site("out.0", "final", unet.conv_norm_out), unet.conv_norm_out


def _site(path: str, kind: str, layer: nn.Module) -> NormSite:
    groups = getattr(layer, "num_groups", 0)
    return NormSite(path, kind, layer.num_channels if groups else layer.normalized_shape[0], groups, layer.eps)


def replaced_norms(
    unet: nn.Module, attachments: Sequence[Attachment], branches: Callable[[], int]
) -> Iterator[tuple[nn.Module, Callable]]:
    """(layer, forward) of every norm layer that an attachment answers for; of two, the last one's."""
    wanted = {key: module for a in attachments for key, module in (a.norms or {}).items()}
    if not wanted:
        return
    for site, layer in located_norms(unet):
        module = wanted.get(site.key)
        if module is not None and module.strength != 0:
            yield layer, _forward(module, layer, site, branches)


def _forward(module: nn.Module, layer: nn.Module, site: NormSite, branches: Callable[[], int]) -> Callable:
    def forward(z: Tensor) -> Tensor:
        more = {"branches": branches()} if getattr(module, "joint", False) else {}
        return module(z, layer.weight, layer.bias, site.groups, site.eps, **more)

    return forward
