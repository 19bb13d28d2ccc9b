"""The ControlNet's second stage: the trained network in half of the bytes, by linear algebra alone.

Two things are smaller in the file, both chosen by what the layers' inputs x are on stills, not by the weights alone:

    differences from the U-Net    W - W_0 ~ U V, of least rank with |(W - W_0 - U V) x|^2 <= (1 - SHARE) |(W - W_0) x|^2
    the edges' embedding          its last but one layer keeps WIDTH of 256 channels, and the last layer is refitted:
                                  argmin |W x - W' x'|^2; the channels that cost least go first (Hassibi and Stork
                                  1993, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon")

The differences' plain spectrum is flat, and truncated by itself it would cost twice the error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F

from ... import models
from ..edges import edges_chunk, hints_of
from .unet import alphas_cumprod, draw_timesteps, latent_chunk

SEED = 72
SHARE, STILLS, CHUNK_SEEN = 0.98, 96, 3
WIDTH = models.CONTROLNET_CONFIG["conditioning_embedding_out_channels"][-1]
#: rows of inputs that one batch adds to a layer's moments at the most
ROWS = 8000


def patches(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What a Linear or Conv2d multiplies its matrix with, [rows, inputs]."""
    if isinstance(layer, nn.Conv2d):
        x = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride).transpose(1, 2)
    return x.flatten(0, -2)


@torch.no_grad()
def moments(network: nn.Module, layers: Iterable[str], run: Callable[[], None]) -> dict[str, torch.Tensor]:
    """E[x x^T], float64 [inputs, inputs], of named layers while `run` calls the network."""
    generator = torch.Generator().manual_seed(SEED)
    found = {name: [0.0, 0] for name in layers}

    def seen(name: str) -> Callable:
        def hook(layer, given, _):
            rows = patches(layer, given[0])
            rows = rows[torch.randperm(len(rows), generator=generator)[:ROWS]]
            found[name][0], found[name][1] = found[name][0] + (rows.T @ rows).double(), found[name][1] + len(rows)

        return hook

    handles = [network.get_submodule(name).register_forward_hook(seen(name)) for name in found]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {name: total / count for name, (total, count) in found.items()}


def low_rank(difference: torch.Tensor, moment: torch.Tensor, share: float = SHARE) -> tuple[torch.Tensor, torch.Tensor]:
    """U [out, r], V [r, in] of least r with |(D - U V) x|^2 <= (1 - share) |D x|^2.

    With C = E[x x^T] = S S^T, the truncated singular vectors of D S, times S^-1.
    """
    moment = moment + 1e-4 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    values, vectors = torch.linalg.eigh(moment)
    root = values.sqrt()
    left, lengths, right = torch.linalg.svd(difference.double() @ (vectors * root), full_matrices=False)
    kept = (lengths**2).cumsum(0) / (lengths**2).sum()
    rank = min(int((kept < share).sum()) + 1, len(lengths))
    # Both factors of one size: half precision has the same room for each.
    size = lengths[:rank].sqrt()
    return (left[:, :rank] * size).float(), (size[:, None] * right[:rank] @ (vectors / root).T).float()


def fewer_channels(weight: torch.Tensor, moment: torch.Tensor, keep: int,
                   at_once: int = 4) -> tuple[list[int], torch.Tensor]:
    """Numbers of the `keep` input channels of a kernel [out, in, k, k] that are missed most, and the kernel refitted
    to them.

    With H = C^-1, a channel's columns g cost W_g (H_gg)^-1 W_g^T, and without them W - W_g (H_gg)^-1 H_g is best.
    """
    out, channels, *sides = weight.shape
    cells = sides[0] * sides[1]
    damping = 1e-5 * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype)
    inverse, matrix, alive = torch.linalg.inv(moment + damping), weight.flatten(1).double(), list(range(channels))
    while len(alive) > keep:
        blocks = inverse.view(len(alive), cells, len(alive), cells).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        columns = matrix.view(out, len(alive), cells).transpose(0, 1)
        cost = torch.einsum("moi,mij,moj->m", columns, torch.linalg.inv(blocks), columns)
        gone = cost.argsort()[:min(at_once, len(alive) - keep)].tolist()
        drop = torch.zeros(len(alive), cells, dtype=torch.bool)
        drop[gone] = True
        drop = drop.flatten()
        push = torch.linalg.solve(inverse[drop][:, drop], inverse[drop][:, ~drop])
        matrix = matrix[:, ~drop] - matrix[:, drop] @ push
        inverse = inverse[~drop][:, ~drop] - inverse[~drop][:, drop] @ push
        alive = [channel for place, channel in enumerate(alive) if place not in gone]
    return alive, matrix.float().view(out, keep, *sides)


def looks(network: nn.Module) -> Callable[[], None]:
    """Calls the network on noisy stills, half of them without words, as the training does."""
    latents, _, captions = latent_chunk(models.load_vae(), CHUNK_SEEN)
    generator = torch.Generator().manual_seed(SEED)
    z, hints = latents[:STILLS].float(), hints_of(edges_chunk(CHUNK_SEEN)[:STILLS])
    t = draw_timesteps(STILLS, generator)
    a = alphas_cumprod()[t][:, None, None, None]
    x = a.sqrt() * z + (1 - a).sqrt() * torch.randn(z.shape, generator=generator)
    words = [caption if i % 2 else "" for i, caption in enumerate(captions[:STILLS])]
    with torch.no_grad():
        context = models.load_text_encoder()(models.tokenize(words)).last_hidden_state

    def run() -> None:
        for few in torch.arange(STILLS).split(16):
            network(x[few], t[few], context[few], hints[few], return_dict=False)

    return run


def slim(network: nn.Module) -> dict[str, torch.Tensor]:
    """A trained ControlNet (256 channels before the embedding's last layer) -> the tensors of its file by diffusers'
    names: factors NAME.up and NAME.down where they are smaller than the matrix NAME.weight."""
    own, base = network.state_dict(), models.state_of("unet")
    changed = [key.removesuffix(".weight") for key, value in own.items() if key.endswith(".weight") and value.ndim >= 2
               and key in base and not value.half().equal(base[key])]  # fmt: skip
    before, last = "controlnet_cond_embedding.blocks.5", "controlnet_cond_embedding.conv_out"
    seen = moments(network, [*changed, last], looks(network))
    keep, refitted = fewer_channels(own[f"{last}.weight"], seen[last], WIDTH)
    state = {**own, f"{last}.weight": refitted, **{
        f"{before}.{part}": own[f"{before}.{part}"][keep] for part in ("weight", "bias")}}
    for name in changed:
        matrix = own[f"{name}.weight"].flatten(1)
        up, down = low_rank(matrix - base[f"{name}.weight"].float().flatten(1), seen[name])
        if up.numel() + down.numel() < matrix.numel():
            del state[f"{name}.weight"]
            state |= {f"{name}.up": up, f"{name}.down": down}
    return state
