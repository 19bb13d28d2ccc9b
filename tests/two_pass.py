"""Gather-swap as the paper describes it, with a stored bank: what lock-step is measured against.

Written on nothing of the pack's: diffusers' attention processors, one frame and one branch at
a time, softmax by hand. Pass one edits the group's frames one after the other through *all*
steps and stores K, V of every step, evaluation, layer and branch; pass two edits every frame,
group frames included, reading them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor


def softmax_attention(q, k, v, heads):
    """[tokens, channels] against [keys, channels]."""
    rows = []
    for q_, k_, v_ in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        rows.append((q_ @ k_.T / math.sqrt(q_.shape[-1])).softmax(-1) @ v_)
    return torch.cat(rows, -1)


@dataclass
class TwoPass:
    """A U-Net whose attentions read and write a bank. It owns ``unet``: give it a copy.

    Args:
        unet: of diffusers, float64.
        schedule: its noise schedule.
        branches: (name, text [F, 77, C], image [F, 4, h, w] or None), the first first.
        scales: of the differences between neighbouring branches.
        sigmas: of the run.
        first, stop: steps in which keys are swapped.
        kinds: "attn1", "attn2".
        gather: group frames read their predecessor; else their own keys.
        own_keys: frames read their own keys beside the group's.
    """

    unet: torch.nn.Module
    schedule: object
    branches: list
    scales: list
    sigmas: Tensor
    first: int
    stop: int
    kinds: tuple = ("attn1", "attn2")
    gather: bool = True
    own_keys: bool = False
    bank: dict = field(default_factory=dict)

    def __post_init__(self):
        for name, attention in self.unet.named_modules():
            if name.endswith(self.kinds):
                attention.set_processor(self.processor(name))

    def processor(self, name):
        class Processor:
            def __call__(_, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
                context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
                rows = []
                for i in range(len(hidden_states)):
                    q, k, v = attn.to_q(hidden_states[i]), attn.to_k(context[i]), attn.to_v(context[i])
                    rows.append(softmax_attention(q, *self.keys(name, k, v), attn.heads))
                return attn.to_out[0](torch.stack(rows))

        return Processor()

    def keys(self, name, k, v):
        """What one frame reads in one attention, and in pass one stores."""
        if not self.active:
            return k, v
        place = (self.evaluation, self.branch, name)
        if self.editing is not None:  # pass one: the position in the group
            self.bank[(self.editing, *place)] = k, v
            return self.bank[(max(self.editing - 1, 0), *place)] if self.gather else (k, v)
        stored = [self.bank[(j, *place)] for j in range(self.group)]
        stored = [(k, v), *stored] if self.own_keys else stored
        return tuple(torch.cat([pair[which] for pair in stored]) for which in (0, 1))

    def denoiser(self, ids):
        """D(x, sigma) of some frames, each condition by a call of its own."""
        self.evaluation = -1

        def model(x, sigma, **extra_args):
            self.evaluation += 1
            step = int((self.sigmas - sigma[0]).abs().argmin())
            self.active = self.first <= step < self.stop
            scaled, t = x / (1 + sigma[0] ** 2).sqrt(), self.schedule.timestep(sigma)
            denoised = []
            for name, text, image in self.branches:
                self.branch, inputs = name, scaled
                if self.unet.config.in_channels == 8:
                    picture = torch.zeros_like(x) if image is None else image[ids]
                    inputs = torch.cat([scaled, picture], 1)
                noise = self.unet(inputs, t, encoder_hidden_states=text[ids]).sample
                denoised.append(x - sigma[0] * noise)
            out = denoised[-1]
            for i, scale in reversed(list(enumerate(self.scales))):
                out = out + scale * (denoised[i] - denoised[i + 1])
            return out

        return model

    @torch.no_grad()
    def run(self, sampler, x, group, noises=None, before_pass_two=None):
        """Edited frames, and the group's frames as pass one left them.

        Args:
            sampler: in k-diffusion's convention.
            x: [F, ...], noisy.
            group: ids of the group's frames.
            noises: [steps, F, ...] for a sampler that draws noise.
        """

        def edit(ids):
            options = {}
            if noises is not None:
                given = iter(noises[:, ids])
                options["noise_sampler"] = lambda sigma, target: next(given)
            return sampler(self.denoiser(ids), x[ids], self.sigmas, **options)

        self.group, lanes = len(group), []
        for self.editing, frame in enumerate(group):
            lanes.append(edit([frame]))
        self.editing = None
        if before_pass_two is not None:
            before_pass_two()
        return edit(list(range(len(x)))), torch.cat(lanes)
