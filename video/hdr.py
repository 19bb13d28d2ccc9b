"""HDR signals as SDR pictures."""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers of the transfer functions in ITU-T H.273.
PQ, HLG = 16, 18
WHITE = 203.0  # cd/m2 of HDR reference white, ITU-R BT.2408
PEAK = 1000.0  # cd/m2 of the display that HLG is shown on, and beyond which PQ is cut
_KNEE = 0.8  # up to here the tone curve is the identity

# BT.2020 primaries to BT.709's, linear light (ITU-R BT.2087).
_TO_BT709 = torch.tensor([
    [1.660491, -0.587641, -0.072850],
    [-0.124550, 1.132900, -0.008349],
    [-0.018151, -0.100579, 1.118730],
])  # fmt: skip


def tone_mapped(signal: Tensor, transfer: int, wide: bool = True) -> Tensor:
    """An HDR signal as sRGB.

    Light as displayed (ITU-R BT.2100), reference white as 1, primaries of BT.709, then the largest
    of R, G and B by a Moebius curve that is the identity up to 0.8 and brings the peak to 1.

    Args:
        signal: float32 [..., 3], R'G'B' in 0..1.
        transfer: ``PQ`` or ``HLG``.
        wide: the primaries are BT.2020's.

    Returns:
        float32 [..., 3] in 0..1; reference white becomes 0.956.
    """
    light = (_pq if transfer == PQ else _hlg)(signal.clamp(0, 1)) / WHITE
    if wide:
        light = (light @ _TO_BT709.T).clamp_(min=0)
    peak = light.amax(-1, keepdim=True).clamp_(min=1e-6)
    return srgb(light * (_curve(peak, PEAK / WHITE) / peak)).clamp_(0, 1)


def srgb(light: Tensor) -> Tensor:
    """Linear light to sRGB (IEC 61966-2-1); odd around 0, so that nothing below is lost."""
    high = 1.055 * light.abs().clamp(min=0.0031308) ** (1 / 2.4) - 0.055
    return torch.where(light.abs() <= 0.0031308, 12.92 * light, high * light.sign())


def linear(value: Tensor) -> Tensor:
    """sRGB to linear light, the inverse of ``srgb``."""
    high = ((value.abs().clamp(min=0.04045) + 0.055) / 1.055) ** 2.4
    return torch.where(value.abs() <= 0.04045, value / 12.92, high * value.sign())


def _pq(signal: Tensor) -> Tensor:
    """SMPTE ST 2084's EOTF, in cd/m2."""
    m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
    power = signal ** (1 / m2)
    return 10000 * ((power - c1).clamp(min=0) / (c2 - c3 * power)) ** (1 / m1)


def _hlg(signal: Tensor) -> Tensor:
    """ARIB STD-B67's inverse OETF and OOTF for a display of ``PEAK`` (system gamma 1.2), in cd/m2."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = torch.where(signal <= 0.5, signal**2 / 3, (torch.exp((signal - c) / a) + b) / 12)
    luma = scene @ scene.new_tensor([0.2627, 0.6780, 0.0593])
    return PEAK * luma.clamp(min=1e-9).unsqueeze(-1) ** 0.2 * scene


def _curve(value: Tensor, peak: float) -> Tensor:
    j = _KNEE
    a = -j * j * (peak - 1) / (j * j - 2 * j + peak)
    b = (j * j - 2 * j * peak + peak) / (peak - 1)
    high = (b * b + 2 * b * j + j * j) / (b - a) * (value + a) / (value + b)
    return torch.where(value <= j, value, high.clamp(max=1))
