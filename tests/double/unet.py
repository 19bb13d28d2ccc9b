"""A U-Net of a few thousand parameters whose transformer blocks bear LDM names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from steadyedit.diffusion.schedule import DiscreteSchedule
from steadyedit.methods.attachment import Attachment, FrameLayout, NormSite
from steadyedit.methods.sampling_plan import Replacement
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, interpolate, linear, scaled_dot_product_attention

PATHS = (
    "input_blocks.1.1.transformer_blocks.0",
    "input_blocks.4.1.transformer_blocks.0",
    "middle_block.1.transformer_blocks.0",
    "output_blocks.3.1.transformer_blocks.0",
)
CHANNELS, HEADS, CONTEXT, GROUPS = 16, 2, 12, 4
#: Where the GroupNorms are that a U-Net has outside of its transformers.
RESNET_NORM, FINAL_NORM = "input_blocks.1.0.in_layers.0", "out.0"


class DoubleAttention(nn.Module):
    """Attention with diffusers' and LDM's names of its projections."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(CHANNELS, CHANNELS, bias=False)
        self.to_k = nn.Linear(context, CHANNELS, bias=False)
        self.to_v = nn.Linear(context, CHANNELS, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(CHANNELS, CHANNELS)])

    def forward(self, z: Tensor, context: Tensor, mix, deltas: Mapping[str, Tensor], path: str) -> Tensor:
        """``mix(q, k, v) -> out`` replaces softmax(QK^T)V; ``deltas["<path>.to_q.weight"]`` is added to W_q."""

        def project(name: str, x: Tensor) -> Tensor:
            layer, delta = self.get_submodule(name), deltas.get(f"{path}.{name}.weight")
            return layer(x) if delta is None else linear(x, layer.weight + delta.to(x.dtype), layer.bias)

        q, k, v = project("to_q", z), project("to_k", context), project("to_v", context)
        if mix is not None:
            return project("to_out.0", mix(q, k, v))
        q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
        return project("to_out.0", scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class DoubleBlock(nn.Module):
    """Norm, self-attention, norm, cross-attention, norm, feed-forward, then what is attached."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, CHANNELS)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(CHANNELS) for _ in range(3))
        self.attn1, self.attn2 = DoubleAttention(CHANNELS), DoubleAttention(CONTEXT)
        self.ff = nn.Linear(CHANNELS, CHANNELS)

    def forward(self, feature_map: Tensor, context: Tensor, path: str, attached: DoubleState, frames: int) -> Tensor:
        batch, _, height, width = feature_map.shape
        layout = FrameLayout(batch // frames, frames, height, width)
        outer = path.split(".transformer_blocks")[0]
        here = [a for a in attached.attachments if path in a.sites]
        for attachment in here:
            if attachment.inputs is not None:
                entering = attachment.inputs[outer.replace(".", "/")](feature_map.flatten(2).transpose(1, 2), layout)
                feature_map = entering.transpose(1, 2).reshape(feature_map.shape)
        z = attached.normed(self.norm, f"{outer}.norm", feature_map).flatten(2).transpose(1, 2)
        mixing = next((a.mixing for a in here if a.mixing is not None), None)
        replaced = attached.replaced

        def mix(kind: str):
            if replaced is not None and path in replaced.sites and kind in replaced.kinds:
                return lambda q, k, v: replaced.attention(path, kind, q, k, v, HEADS, ("the only one",))
            if kind == "self" and mixing is not None:
                return lambda q, k, v: mixing(q, k, v, HEADS, layout)
            return None

        def normed(name: str) -> Tensor:
            return attached.normed(self.get_submodule(name), f"{path}.{name}", z)

        def passed_on(part: str, out: Tensor) -> Tensor:
            key = f"{path}.{part}".replace(".", "/")
            for attachment in here:
                if attachment.outputs is not None and key in attachment.outputs:
                    module = attachment.outputs[key]
                    out = module(out, layout, *((z,) if getattr(module, "beside", False) else ()))
            return out

        first = normed("norm1")
        z = z + passed_on("attn1", self.attn1(first, first, mix("self"), attached.deltas, f"{path}.attn1"))
        attended = self.attn2(normed("norm2"), context, mix("cross"), attached.deltas, f"{path}.attn2")
        z = z + passed_on("attn2", attended)
        z = z + passed_on("ff", gelu(self.ff(normed("norm3"))))
        for attachment in here:
            if attachment.modules is not None:
                z = attachment.modules[path.replace(".", "/")](z, layout)
        return z.transpose(1, 2).reshape(feature_map.shape)


@dataclass(frozen=True)
class DoubleState:
    """What one call of the U-Net carries: nothing is ever patched into its modules."""

    attachments: tuple[Attachment, ...] = ()
    deltas: Mapping[str, Tensor] = field(default_factory=dict)
    replaced: Replacement | None = None

    def normed(self, layer: nn.Module, path: str, z: Tensor) -> Tensor:
        """The layer's answer, or that of the last attachment that answers for it."""
        key = path.replace(".", "/")
        modules = [a.norms[key] for a in self.attachments if a.norms is not None and key in a.norms]
        module = modules[-1] if modules else None
        if module is None or module.strength == 0:
            return layer(z)
        return module(z, layer.weight, layer.bias, getattr(layer, "num_groups", 0), layer.eps)


class DoubleUNet(nn.Module):
    """Two resolutions down, a middle, one up; predicts noise."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({path.replace(".", "/"): DoubleBlock() for path in PATHS})
        self.conv_in = nn.Conv2d(4, CHANNELS, 3, padding=1)
        self.conv_out = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.time = nn.Linear(2, CHANNELS)
        self.resnet_norm, self.final_norm = nn.GroupNorm(GROUPS, CHANNELS), nn.GroupNorm(GROUPS, CHANNELS)

    def norms(self) -> list[NormSite]:
        """All norm layers in the order of the forward pass."""
        found = [(RESNET_NORM, "resnet", GROUPS)]
        for path in PATHS:
            found.append((path.split(".transformer_blocks")[0] + ".norm", "attention", GROUPS))
            found += [(f"{path}.{name}", "attention", 0) for name in ("norm1", "norm2", "norm3")]
        found.append((FINAL_NORM, "final", GROUPS))
        return [NormSite(path, kind, CHANNELS, groups, self.final_norm.eps) for path, kind, groups in found]

    def forward(self, x: Tensor, timestep: Tensor, context: Tensor, attached: DoubleState, frames: int) -> Tensor:
        """Args: x [branches * frames, 4, h, w]; timestep [] or [batch]; context [batch, tokens, CONTEXT]."""
        angle = timestep.to(x).reshape(-1, 1) / 100
        time = self.time(torch.cat([angle.sin(), angle.cos()], -1))[:, :, None, None]

        def block(index: int, feature_map: Tensor) -> Tensor:
            path = PATHS[index]
            return self.blocks[path.replace(".", "/")](feature_map, context, path, attached, frames)

        fine = block(0, attached.normed(self.resnet_norm, RESNET_NORM, self.conv_in(x) + time))
        coarse = block(2, block(1, avg_pool2d(fine, 2, ceil_mode=True)))
        last = block(3, fine + interpolate(coarse, size=fine.shape[-2:]))
        return self.conv_out(attached.normed(self.final_norm, FINAL_NORM, last))


@dataclass(frozen=True, eq=False)
class DoubleModel:
    """The MODEL value of the double. Clones share the U-Net."""

    unet: DoubleUNet
    attached: DoubleState = DoubleState()
    schedule: DiscreteSchedule = field(default_factory=DiscreteSchedule.scaled_linear)
    latent_scale: float = 0.18215


def double_model(seed: int = 0) -> DoubleModel:
    """A frozen double with weights from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DoubleModel(DoubleUNet().requires_grad_(False).eval())
