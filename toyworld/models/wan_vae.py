"""The toy world's video autoencoder, as it is trained: the Wan VAE on a whole clip at once.

The released Wan VAE walks through a clip in pieces of four frames and carries caches along; the sums are the same.
Channels are 8, 16, 32, 32 instead of 96 to 384. Where pixels are many, a convolution looks at one frame only: in the
file its kernel has the usual three taps in time, the two earlier ones zero. Parameters have the Wan VAE's names.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

WIDTH = 8
LATENTS = 16
#: what hosts subtract from, and divide by, Wan 2.1's latents, channel by channel
MEAN = (-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
        0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921)
STD = (2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
       3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160)


class CausalConv(nn.Conv3d):
    """Convolution whose `taps` frames end with the present one; zeros stand before the clip."""

    def __init__(self, inputs: int, outputs: int, side: int = 3, taps: int = 3):
        super().__init__(inputs, outputs, (taps, side, side), padding=(0, side // 2, side // 2))
        if taps > 1:  # start from the present frame: that is all a still has
            with torch.no_grad():
                self.weight[:, :, :-1] = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        taps = self.kernel_size[0]
        return super().forward(F.pad(x, (0, 0, 0, 0, taps - 1, 0)) if taps > 1 else x)


class RMSNorm(nn.Module):
    """x / rms(x over channels) gamma."""

    def __init__(self, channels: int, axes: int = 3):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * axes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * (x.square().mean(1, keepdim=True) + 1e-12).rsqrt() * self.gamma


class Residual(nn.Module):
    """Norm, SiLU, convolution, twice; starts as the identity where widths agree."""

    def __init__(self, inputs: int, outputs: int, taps: int):
        super().__init__()
        self.residual = nn.Sequential(
            RMSNorm(inputs), nn.SiLU(), CausalConv(inputs, outputs, taps=taps),
            RMSNorm(outputs), nn.SiLU(), nn.Dropout(0.0), CausalConv(outputs, outputs, taps=taps))
        self.shortcut = CausalConv(inputs, outputs, 1, 1) if inputs != outputs else nn.Identity()
        nn.init.zeros_(self.residual[6].weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.residual(x)


class Attention(nn.Module):
    """Self-attention of one head within each frame."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)
        q, k, v = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(q, k, v)[:, 0].transpose(1, 2).unflatten(2, x.shape[-2:])
        return x + self.proj(mixed).unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def over_frames(conv: nn.Conv2d, x: torch.Tensor, stride: int = 1, padding: int = 0) -> torch.Tensor:
    """The 2D convolution on every frame of [B,C,T,H,W], without reordering memory."""
    return F.conv3d(x, conv.weight[:, :, None], conv.bias, stride=(1, stride, stride), padding=(0, padding, padding))


class Down(nn.Module):
    """Half the height and width; with `time`, each further pair of frames becomes one, the first stays alone."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time else None
        if self.time_conv is not None:  # start by keeping the later frame of each pair
            nn.init.zeros_(self.time_conv.weight)
            nn.init.eye_(self.time_conv.weight.data[:, :, 2, 0, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = over_frames(self.resample[1], F.pad(x, (0, 1, 0, 1)), stride=2)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], 2)


class Up(nn.Module):
    """Twice the height and width, half the channels; with `time`, each frame but the first becomes two."""

    def __init__(self, channels: int, time: bool):
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels // 2, 3, padding=1))
        self.time_conv = nn.Conv3d(channels, 2 * channels, (3, 1, 1)) if time else None
        if self.time_conv is not None:  # start by showing each frame twice
            nn.init.zeros_(self.time_conv.weight)
            for half in self.time_conv.weight.data.chunk(2):
                nn.init.eye_(half[:, :, 2, 0, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.time_conv is not None and x.shape[2] > 1:
            later = self.time_conv(F.pad(x[:, :, 1:], (0, 0, 0, 0, 2, 0)))
            pairs = torch.stack(later.chunk(2, dim=1), dim=3).flatten(2, 3)
            x = torch.cat([x[:, :, :1], pairs], 2)
        return over_frames(self.resample[1], F.interpolate(x, scale_factor=(1.0, 2.0, 2.0)), padding=1)


def middle(channels: int) -> nn.Sequential:
    return nn.Sequential(Residual(channels, channels, 3), Attention(channels), Residual(channels, channels, 3))


class Encoder(nn.Module):
    """[B,3,T,H,W] -> [B,2x16,(T-1)/4+1,H/8,W/8]."""

    def __init__(self, width: int):
        super().__init__()
        dims = [width, width, 2 * width, 4 * width, 4 * width]
        self.conv1 = CausalConv(3, width, taps=1)
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip(dims, dims[1:])):
            taps = 1 if level < 2 else 3
            layers += [Residual(inputs, outputs, taps), Residual(outputs, outputs, taps)]
            if level < 3:
                layers.append(Down(outputs, time=level > 0))
        self.downsamples = nn.Sequential(*layers)
        self.middle = middle(dims[-1])
        self.head = nn.Sequential(RMSNorm(dims[-1]), nn.SiLU(), CausalConv(dims[-1], 2 * LATENTS))

    def within(self, x: torch.Tensor) -> torch.Tensor:
        """The layers that look at one frame at a time."""
        return self.downsamples[:5](self.conv1(x))

    def across(self, features: torch.Tensor) -> torch.Tensor:
        """The rest, from features of all frames."""
        return self.head(self.middle(self.downsamples[5:](features)))


class Decoder(nn.Module):
    """[B,16,T',h,w] -> [B,3,4T'-3,8h,8w]."""

    def __init__(self, width: int):
        super().__init__()
        dims = [4 * width, 4 * width, 4 * width, 2 * width, width]
        self.conv1 = CausalConv(LATENTS, dims[0])
        self.middle = middle(dims[0])
        layers: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(zip(dims, dims[1:])):
            inputs, taps = inputs // 2 if level else inputs, 3 if level < 2 else 1
            layers += [Residual(inputs, outputs, taps), *(Residual(outputs, outputs, taps) for _ in range(2))]
            if level < 3:
                layers.append(Up(outputs, time=level < 2))
        self.upsamples = nn.Sequential(*layers)
        self.head = nn.Sequential(RMSNorm(width), nn.SiLU(), CausalConv(width, 3, taps=1))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(z))))


class WanVAE(nn.Module):
    """Clips [B,3,4N+1,H,W] in [-1,1] <-> latents [B,16,N+1,H/8,W/8]."""

    def __init__(self, width: int = WIDTH):
        super().__init__()
        self.encoder, self.decoder = Encoder(width), Decoder(width)
        self.conv1, self.conv2 = CausalConv(2 * LATENTS, 2 * LATENTS, 1, 1), CausalConv(LATENTS, LATENTS, 1, 1)

    def moments(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and log-variance of the posterior."""
        return self.conv1(self.encoder.across(self.encoder.within(x))).chunk(2, dim=1)

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.conv2(z))


def channels(values: tuple[float, ...]) -> torch.Tensor:
    """Per-channel values as [16,1,1,1]."""
    return torch.tensor(values)[:, None, None, None]


@torch.no_grad()
def normalise(vae: WanVAE, shift: torch.Tensor, scale: torch.Tensor) -> None:
    """Fold into the 1x1x1 convolutions that latents with mean `shift` [16] and deviation `scale` become Wan's.

    z' = (z - shift) / scale  STD + MEAN, so that a host's fixed (z' - MEAN) / STD has zero mean and unit variance.
    """
    factor = torch.tensor(STD) / scale
    vae.conv1.weight[:LATENTS] *= factor[:, None, None, None, None]
    vae.conv1.bias[:LATENTS] = (vae.conv1.bias[:LATENTS] - shift) * factor + torch.tensor(MEAN)
    vae.conv1.bias[LATENTS:] += 2 * factor.log()
    weight = vae.conv2.weight[:, :, 0, 0, 0]
    vae.conv2.bias += weight @ (shift - torch.tensor(MEAN) / factor)
    vae.conv2.weight /= factor[None, :, None, None, None]


def whole_kernels(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """State dict of `WanVAE` -> the Wan VAE's: kernels of one frame get their two earlier taps, zeros."""
    return {key: F.pad(value, (0, 0, 0, 0, 2, 0)) if value.ndim == 5 and value.shape[2:] == (1, 3, 3) else value
            for key, value in state.items()}


def own_kernels(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The way back from `whole_kernels`."""
    shapes = {key: value.shape for key, value in WanVAE().state_dict().items()}
    return {key: value[:, :, -shapes[key][2]:] if value.ndim == 5 else value for key, value in state.items()}
