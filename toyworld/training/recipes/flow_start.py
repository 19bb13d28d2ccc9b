"""Where the flow-matching editor's training begins: at a network that gives the source back, from any noise.

    v = (z_s - c) / s,   c the source's latents, which every noisy token fetches from the reference token of its place

The residual stream has x_s in its first 16 places, c in the next 16, constants in 8 more, so large that layer norms
hardly bend what is small beside them. The first head of the first block fetches c by position alone: its queries and
keys are constants, and their rotary phases agree where row and column are the same and the index is one higher. The
last layer takes (x_s - c) times 1 / s, which its modulation learns from the time's embedding by least squares. All
else is silent, so that training adds to c what the instruction asks for.
"""

from __future__ import annotations

import torch

#: channels of a token; the size of contents and of constants in the residual stream; places of constants
TOKEN, CONTENT, LARGE, CONSTANTS = 16, 0.5, 4.0, 8
#: (first of a pair of places in a head, its share of the energy, phase of the query): index, rows, columns
PLACES = ((0, 8.0, 1.0), (8, 9.0, 0.0), (10, 3.0, 0.0), (20, 9.0, 0.0), (22, 3.0, 0.0))
#: what norms of queries and keys multiply those places by; how small they start in the other heads
SHARP, ELSEWHERE = 2.83, 0.4
#: noise levels below which v need not be so steep, and the factor between 1 / s and the modulation
STEEPEST, RATIO = 0.03, 3.0


def position_vectors(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Query and key [size] of the head that fetches, before the norms' weights; mean square 1."""
    query, key = torch.zeros(size), torch.zeros(size)
    for place, energy, phase in PLACES:
        turned = torch.tensor(phase)
        query[place], query[place + 1] = energy**0.5 * turned.cos(), energy**0.5 * turned.sin()
        key[place] = energy**0.5
    return query, key


def gain(contents: int, width: int) -> float:
    """What a layer norm multiplies by, with `contents` parts of 16 places of content beside the constants."""
    energy = contents * TOKEN * CONTENT**2 + CONSTANTS * LARGE**2
    return (width / energy) ** 0.5


def silence(network) -> None:
    """Modulations that let everything pass, and residual branches that give nothing yet."""
    for name, module in network.named_modules():
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm.linear")):
            module.weight.zero_()
            parts = module.bias.zero_().view(-1, network.inner_dim)  # shift, scale, gate, ...
            parts[2::3] = 1
        elif name.endswith(("to_out.0", "to_add_out", "net.2", "proj_out")) and name != "proj_out":
            module.weight.zero_()
            module.bias.zero_()
    last = network.time_text_embed.text_embedder.linear_2
    last.weight.zero_()
    last.bias.zero_()


def fetch(network) -> None:
    """The first block's first head, which writes c into places 16 to 31."""
    attention, width = network.transformer_blocks[0].attn, network.inner_dim
    size = width // network.config.num_attention_heads
    places = [place + i for place, *_ in PLACES for i in (0, 1)]
    query, key = position_vectors(size)
    queries, keys = (attention.to_q, attention.norm_q, query), (attention.to_k, attention.norm_k, key)
    for projection, norm, vector in (queries, keys):
        projection.weight.view(-1, size, width)[1:, places] *= ELSEWHERE
        projection.weight[:size] = 0
        projection.bias[:size] = vector
        norm.weight[places] = SHARP
    once = torch.eye(TOKEN)
    attention.to_v.weight[:size] = 0
    attention.to_v.bias[:size] = 0
    attention.to_v.weight[:TOKEN, :TOKEN] = once
    attention.to_out[0].weight[TOKEN:2 * TOKEN, :TOKEN] = once / gain(1, width)


def steepness(network) -> None:
    """1 + the last modulation's scale = 1 / (RATIO s), fitted to the time's embedding; no shift."""
    sigma = torch.linspace(STEEPEST, 1, 500)
    embedded = network.time_text_embed(1000 * sigma, torch.zeros(len(sigma), network.config.pooled_projection_dim))
    features = torch.cat([torch.nn.functional.silu(embedded), torch.ones(len(sigma), 1)], 1).double()
    wanted = (1 / (RATIO * sigma) - 1).double()[:, None]
    weight = sigma.double()[:, None]
    a, b = features * weight, wanted * weight
    ridge = 1e-4 * torch.eye(a.shape[1], dtype=a.dtype)
    found = torch.linalg.solve(a.T @ a + ridge, a.T @ b)[:, 0].float()
    linear = network.norm_out.linear
    linear.weight.zero_()
    linear.bias.zero_()
    linear.weight[:2 * TOKEN], linear.bias[:2 * TOKEN] = found[:-1], found[-1]


@torch.no_grad()
def give_back_the_source(network) -> None:
    """Set the start above in an untrained `models.flow_editor.build()`."""
    width = network.inner_dim
    silence(network)
    signs = torch.tensor([1.0, -1.0]).repeat(CONSTANTS // 2)
    network.x_embedder.weight.zero_()
    network.x_embedder.bias.zero_()
    network.x_embedder.weight[:TOKEN] = CONTENT * torch.eye(TOKEN)
    network.x_embedder.bias[2 * TOKEN:2 * TOKEN + CONSTANTS] = LARGE * signs
    network.context_embedder.bias[2 * TOKEN + CONSTANTS:2 * TOKEN + 2 * CONSTANTS] = LARGE * signs
    fetch(network)
    steepness(network)
    factor = RATIO / (CONTENT * gain(2, width)) * torch.eye(TOKEN)
    network.proj_out.weight.zero_()
    network.proj_out.bias.zero_()
    network.proj_out.weight[:, :TOKEN], network.proj_out.weight[:, TOKEN:2 * TOKEN] = factor, -factor
