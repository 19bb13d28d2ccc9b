"""Measures against plain loops and known answers, and what each must and must not reward."""

from __future__ import annotations

import math

import kornia
import pytest
import torch
from steadyedit.toyworld import apply_edit, edits_of, render, sample_scene
from steadyedit.vision import metrics
from tolerances import FLOAT32_STEP, FLOAT64_CHAIN, NETWORK, RUN


@pytest.fixture(scope="module")
def clip():
    """A moving object on a plain background, 64 pixels."""
    return render(sample_scene(4, "validation", frames=5, size=64, objects=1, photo=False, background="gray"))


def test_psnr():
    truth = torch.rand(2, 4, 5, 3, generator=torch.Generator().manual_seed(0))
    assert metrics.psnr(truth + 0.1, truth) == pytest.approx(20, abs=NETWORK)
    assert metrics.psnr(truth, truth) == 100
    mask = torch.zeros(2, 4, 5)
    mask[:, :2] = 1
    frames = truth.clone()
    frames[:, :2] += 0.01
    frames[:, 2:] += 0.5
    assert metrics.psnr(frames, truth, mask) == pytest.approx(40, abs=RUN)
    assert metrics.psnr(frames, truth, 1 - mask) == pytest.approx(-20 * math.log10(0.5), abs=RUN)
    assert metrics.psnr(frames, truth, mask * 0) is None


def test_psnr_against_kornia():
    """Frame by frame, and of the whole clip, whose error is the mean of the frames' and not their decibels'."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.rand(4, 7, 5, 3, generator=generator)
    noise = torch.randn(truth.shape, generator=generator) * torch.tensor([0.5, 0.1, 0.02, 0.004])[:, None, None, None]
    frames = (truth + noise).clamp(0, 1)
    expected = [float(kornia.metrics.psnr(a, b, 1.0)) for a, b in zip(frames.double(), truth.double(), strict=True)]
    found = [metrics.psnr(frames[i : i + 1], truth[i : i + 1]) for i in range(4)]
    assert found == pytest.approx(expected, rel=FLOAT64_CHAIN) and max(expected) - min(expected) > 30
    whole = float(kornia.metrics.psnr(frames.double(), truth.double(), 1.0))
    assert metrics.psnr(frames, truth) == pytest.approx(whole, rel=FLOAT64_CHAIN)


def test_boundary_error_looks_at_five_pixels_around_the_edge():
    truth = torch.zeros(1, 16, 16, 3)
    mask = torch.zeros(1, 16, 16)
    mask[:, :, 8:] = 1
    frames = truth.clone()
    frames[:, :, 6:10] = 0.25
    assert metrics.boundary_error(frames, truth, mask) == pytest.approx(0.25)
    frames[:, :, :6] = frames[:, :, 10:] = 1
    assert metrics.boundary_error(frames, truth, mask) == pytest.approx(0.25)
    assert metrics.boundary_error(frames, truth, torch.ones(1, 16, 16)) is None


def test_the_truth_does_not_flicker(clip):
    assert metrics.flicker(clip.frames, clip.frames, clip.flow, clip.flow_valid) == 0
    assert metrics.warp_error(clip.frames, clip.flow, clip.flow_valid) < RUN


def test_flicker_against_a_plain_loop(clip):
    frames = (clip.frames + 0.1 * torch.rand(clip.frames.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    flow, valid = clip.flow.round(), clip.flow_valid.clone()
    difference, total, count = frames - clip.frames, 0.0, 0
    for t in range(len(flow)):
        for y in range(64):
            for x in range(64):
                to_x, to_y = x + int(flow[t, y, x, 0]), y + int(flow[t, y, x, 1])
                if not (0 <= to_x < 64 and 0 <= to_y < 64):
                    valid[t, y, x] = False
                elif valid[t, y, x]:
                    total += float((difference[t + 1, to_y, to_x] - difference[t, y, x]).abs().mean())
                    count += 1
    assert metrics.flicker(frames, clip.frames, flow, valid) == pytest.approx(total / count, rel=NETWORK)


def warp_error_by_loops(frames, flow, valid, boundaries):
    """Per pair of frames: the sum of squares over points and channels, and the number of both."""
    sums: list[tuple[float, int]] = []
    frames, flow, valid = (part.double().tolist() for part in (frames, flow, valid))
    for t in range(len(flow)):
        total, count = 0.0, 0
        for y in range(64):
            for x in range(64):
                u, v = flow[t][y][x]
                right, below = flow[t][y][min(x + 1, 63)], flow[t][min(y + 1, 63)][x]
                gradient = sum((near[0] - u) ** 2 + (near[1] - v) ** 2 for near in (right, below))
                if not valid[t][y][x] or (boundaries and gradient > 0.01 * (u * u + v * v) + 0.002):
                    continue
                for channel in range(3):
                    change = frames[t + 1][y + int(v)][x + int(u)][channel] - frames[t][y][x][channel]
                    total, count = total + change**2, count + 1
        sums.append((total, count))
    return sums


def test_warp_error_against_plain_loops(clip):
    """Noise that grows from frame to frame and on the object; whole steps, so that nothing is interpolated."""
    noise = torch.randn(clip.frames.shape, generator=torch.Generator().manual_seed(1))
    noise *= 1 + 4 * clip.masks[0][..., None]
    frames = (clip.frames + 0.02 * torch.arange(1, 6)[:, None, None, None] * noise).clamp(0, 1)
    flow, y, x = clip.flow.round(), torch.arange(64)[:, None], torch.arange(64)
    to_x, to_y = x + flow[..., 0], y + flow[..., 1]
    valid = clip.flow_valid.bool() & (to_x >= 0) & (to_x < 64) & (to_y >= 0) & (to_y < 64)
    valid[0, :, ::2] = valid[0, ::2] = valid[3, :20] = False  # pairs with unlike numbers of points
    sums = warp_error_by_loops(frames, flow, valid, boundaries=False)
    pooled = sum(total for total, _ in sums) / sum(count for _, count in sums)
    inner = warp_error_by_loops(frames, flow, valid, boundaries=True)
    by_pair = sum(total / count for total, count in inner) / len(inner)
    assert metrics.warp_error(frames, flow, valid) == pytest.approx(pooled, rel=NETWORK)
    assert metrics.warp_error(frames, flow, valid, "lai") == pytest.approx(by_pair, rel=NETWORK)
    assert min(pooled, by_pair) > 0.01 and abs(pooled - by_pair) > 100 * NETWORK * pooled
    assert all(0 < fewer < count for (_, count), (_, fewer) in zip(sums[1:], inner[1:], strict=True))  # 0: at rest
    # The boundaries alone, at equal weights of the pairs, move it too.
    assert abs(by_pair - sum(total / count for total, count in sums) / len(sums)) > 100 * NETWORK * by_pair
    valid[1:3] = False
    pairs = [inner[0], inner[3]]
    expected = sum(total / count for total, count in pairs) / 2
    assert metrics.warp_error(frames, flow, valid, "lai") == pytest.approx(expected, rel=NETWORK)
    assert metrics.warp_error(frames, flow, valid & False, "lai") is None


@pytest.mark.parametrize("count", [3, 6, 7])
def test_network_interpolation_against_a_plain_loop(count):
    """Of six frames the last has no right neighbour, so that 1 and 3 are predicted."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(count, 5, 6, 3, generator=generator)
    numbers = {3: (1,), 6: (1, 3), 7: (1, 3, 5)}[count]
    predicted = torch.rand(len(numbers), 5, 6, 3, generator=generator) * 0.5
    errors = []
    for one, number in zip(predicted.flatten(1).tolist(), numbers, strict=True):
        true = frames[number].flatten().tolist()
        errors.append(math.sqrt(sum((a - b) ** 2 for a, b in zip(one, true, strict=True)) / len(true)))
    error, psnr = metrics.network_interpolation(frames, predicted)
    assert error == pytest.approx(sum(errors) / len(errors), rel=FLOAT64_CHAIN)
    assert psnr == pytest.approx(sum(-20 * math.log10(e) for e in errors) / len(errors), rel=FLOAT64_CHAIN)
    assert metrics.network_interpolation(frames, frames[1:-1:2])[1] == 100
    assert metrics.network_interpolation(frames[:2], frames[:0]) is None


def test_flicker_sees_flicker_and_not_a_steady_error(clip):
    steady = clip.frames + 0.2
    alternating = clip.frames + torch.tensor([0.1, -0.1, 0.1, -0.1, 0.1])[:, None, None, None]
    values = [metrics.flicker(f, clip.frames, clip.flow, clip.flow_valid) for f in (steady, alternating)]
    assert values[0] < FLOAT32_STEP
    assert values[1] == pytest.approx(0.2, abs=NETWORK)


def test_a_frozen_or_smeared_clip_gains_nothing(clip):
    """Both look perfectly steady; the true flow and the estimated one are not fooled."""
    frozen = clip.frames[:1].expand_as(clip.frames)
    smeared = clip.frames.mean(0, keepdim=True).expand_as(clip.frames)
    honest = clip.frames + 0.01 * torch.randn(clip.frames.shape, generator=torch.Generator().manual_seed(0))
    measured = [
        (metrics.flicker(f, clip.frames, clip.flow, clip.flow_valid),
         metrics.motion_error(f, clip.flow, clip.flow_valid, clip.masks.amax(0)[:-1]))
        for f in (honest, frozen, smeared)
    ]  # fmt: skip
    own = metrics.motion_error(clip.frames, clip.flow, clip.flow_valid, clip.masks.amax(0)[:-1])
    speed = clip.flow.norm(dim=-1)[clip.masks[0][:-1] > 0.5].mean()
    for still, (_, motion) in zip((False, True, True), measured, strict=True):
        assert (motion > 0.8 * speed) == still, (still, motion, own, speed)
    # A plain object hides its own motion inside: only points that leave its first place tell.
    assert min(measured[1][0], measured[2][0]) > 5e-4
    steady = clip.frames + 0.2
    assert metrics.flicker(steady, clip.frames, clip.flow, clip.flow_valid) < measured[1][0] / 100


def test_a_single_frame_has_no_motion(clip):
    one, none = clip.frames[:1], (clip.flow[:0], clip.flow_valid[:0])
    assert metrics.flicker(one, one, *none) is None
    assert metrics.warp_error(one, *none) is None
    assert metrics.motion_error(one, *none) is None
    assert metrics.clip_frame(torch.rand(1, 4)) is None


def test_accuracy_and_clip_scores():
    assert metrics.edit_accuracy(["blue", "red", "blue", "blue"], "blue") == 0.75
    embeddings = torch.randn(5, 16, generator=torch.Generator().manual_seed(0))
    pairs = [
        float(torch.cosine_similarity(embeddings[i], embeddings[j], dim=0)) for i in range(5) for j in range(5) if i < j
    ]
    assert metrics.clip_frame(embeddings) == pytest.approx(sum(pairs) / 10, abs=FLOAT32_STEP)
    assert metrics.clip_frame(embeddings[:1].expand(3, -1)) == pytest.approx(1)
    assert metrics.clip_text(embeddings[:1].expand(3, -1) * 7, embeddings[0]) == pytest.approx(1)


def test_shifts_against_plain_covariances():
    generator = torch.Generator().manual_seed(0)
    frames, tokens, channels = 6, 3, 4
    before, after = (torch.randn(2 * frames, tokens, channels, generator=generator) + 1 for _ in range(2))
    up, down, means, base = 0.0, 0.0, 0.0, 0.0
    for branch in range(2):
        for site in range(tokens):
            a, b = (z[branch * frames : (branch + 1) * frames, site].double() for z in (before, after))
            sigma, other = (torch.cov(z.T, correction=0) for z in (a, b))
            up, down = up + (other - sigma).square().sum(), down + sigma.square().sum()
            means, base = means + (b.mean(0) - a.mean(0)).square().sum(), base + a.mean(0).square().sum()
    assert metrics.variance_shift(before, after, frames) == pytest.approx(float((up / down).sqrt()), rel=FLOAT64_CHAIN)
    assert metrics.mean_shift(before, after, frames) == pytest.approx(float((means / base).sqrt()), rel=FLOAT64_CHAIN)
    assert metrics.mean_shift(before, before, frames) == metrics.variance_shift(before, before, frames) == 0
    assert metrics.variance_shift(before, before + 5, frames) == pytest.approx(0, abs=FLOAT32_STEP)


def test_interval_is_paired():
    first = [1.0, 5.0, 9.0, 2.0]
    low, high = metrics.paired_interval([value + 0.5 for value in first], first)
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)
    low, high = metrics.paired_interval([2.0, 5.0, 11.0, 3.0], first)
    # d = 1, 0, 2, 1: mean 1, s = 0.8165, t(0.975, 3) = 3.1824
    assert (low, high) == (pytest.approx(1 - 3.1824 * 0.8165 / 2, abs=RUN), pytest.approx(1 + 1.2993, abs=RUN))
    assert metrics.paired_interval([1.0, None], [1.0, 2.0]) is None


def test_an_edit_is_measured_where_it_happens():
    """The true answer of a colour edit differs from the source inside the object alone."""
    scene = sample_scene(9, "validation", frames=2, size=64, objects=1, photo=False)
    edit = next(edit for edit in edits_of(scene) if edit.kind == "colour")
    source, truth = render(scene), render(apply_edit(scene, edit))
    mask = truth.masks[0]
    assert metrics.psnr(source.frames, truth.frames, mask) < 20
    assert metrics.psnr(source.frames, truth.frames, (mask < 0.01).float()) > 60
