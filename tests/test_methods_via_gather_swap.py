"""Gather-swap without a host: settings, the group, the steps, the bank, lanes around a sampler."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from double import RecordedProgress
from doubles import clip, condition, predict, with_methods
from steadyedit.diffusion.samplers import SAMPLERS, sample_heun
from steadyedit.methods.attachment import BlockSite
from steadyedit.methods.reference_rows import sample_with_rows
from steadyedit.methods.registry import build
from steadyedit.methods.sampling_plan import RunFacts
from steadyedit.methods.via import GatherSwap, GroupAttention, KeyValueCache, active, build_gather_swap, group_frames
from tolerances import FLOAT32_STEP, RUN, assert_close

SIGMAS = torch.tensor([14.0, 9.0, 6.0, 4.0, 2.0, 1.0, 0.7, 0.5, 0.3, 0.1, 0.0], dtype=torch.float64)


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("frames", "group", "expected"),
    [
        (24, 4, (0, 8, 15, 23)), (10, 4, (0, 3, 6, 9)), (5, 2, (0, 4)), (7, 1, (0,)), (1, 1, (0,)),
        (4, 4, (0, 1, 2, 3)), (5, 4, (0, 1, 3, 4)),
    ],
)  # fmt: skip
def test_the_group_is_spread_evenly(frames, group, expected):
    assert group_frames(frames, group) == expected


def test_every_group_holds_first_and_last_and_no_frame_twice():
    for frames in range(2, 40):
        for group in range(2, frames + 1):
            ids = group_frames(frames, group)
            gaps = [b - a for a, b in zip(ids, ids[1:], strict=False)]
            assert ids[0] == 0 and ids[-1] == frames - 1 and len(ids) == group
            assert min(gaps) >= 1 and max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("frames", [1, 3])
def test_a_group_larger_than_the_clip_is_named(frames):
    with pytest.raises(ValueError, match=f"^frames: the clip has {frames}, but .* 4 .* Gather-Swap to {frames}"):
        group_frames(frames, 4)


def test_frames_named_by_hand():
    assert GatherSwap(frames=[2, 0]).group_of(3) == (2, 0)
    with pytest.raises(ValueError, match="^group_frames: 2, 3 are not all in 0..2"):
        GatherSwap(frames=(2, 3)).group_of(3)


def test_the_first_eight_of_ten_steps():
    assert [active(float(s), SIGMAS, 0.0, 0.8) for s in SIGMAS[:-1]] == [True] * 8 + [False] * 2
    assert [active(float(s), SIGMAS, 0.3, 1.0) for s in SIGMAS[:-1]] == [False] * 3 + [True] * 7
    assert not any(active(float(s), SIGMAS, 0.51, 0.54) for s in SIGMAS)


def test_an_evaluation_belongs_to_steps_by_its_sigma():
    """Heun's second one at the boundary is the next step's; between two sigmas it is the earlier step's."""
    seen = []
    sample_heun(lambda x, s: seen.append(active(float(s[0]), SIGMAS)) or x, normal(0, 1, 2), SIGMAS)
    assert seen == [True] * 15 + [False] * 4
    assert active(0.31, SIGMAS) and not active(0.29, SIGMAS)
    assert active(20.0, SIGMAS) and not active(20.0, SIGMAS, 0.1, 0.8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounded_sigmas_are_the_same_steps(dtype):
    narrow = SIGMAS.float()
    for other in (narrow * (1 + 1e-6), narrow * (1 - 1e-6)):
        assert [active(float(s), SIGMAS.to(dtype)) for s in other[:-1]] == [True] * 8 + [False] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"group": 0}, "^group: expected 1 frame or more, but got 0"),
        ({"chunk": -1}, "^chunk: expected 0 .* but got -1"),
        ({"start": 0.8}, "^start, end: expected 0 <= start < end <= 1, but got 0.8 and 0.8"),
        ({"end": 1.5}, "^start, end: .* but got 0.0 and 1.5"),
        ({"blocks": "left"}, "^blocks: expected one of all, down, middle, up, but got 'left'"),
        ({"self_attention": False, "cross_attention": False}, "^self_attention, cross_attention: both are off"),
    ],
)
def test_settings_out_of_range_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        GatherSwap(**wrong)


def test_an_attachment_is_built_again_from_its_config():
    sites = [BlockSite(f"{place}.1.1.transformer_blocks.0", 8, 2) for place in ("input_blocks", "output_blocks")]
    made = build_gather_swap(sites, group=3, blocks="up", frames=(1, 0, 2))
    again = build("gather-swap", sites, json.loads(json.dumps(made.config)))
    assert again.plan == made.plan == GatherSwap(3, frames=(1, 0, 2), blocks="up")
    assert again.sites == {"output_blocks.1.1.transformer_blocks.0"} and again.modules is None
    assert copy.deepcopy(made) is made and copy.deepcopy(made.plan) is made.plan
    with pytest.raises(ValueError, match="method gather-swap: settings .*number"):
        build("gather-swap", sites, {"number": 3})


def test_branches_find_their_keys_in_any_order_and_any_company():
    bank = KeyValueCache()
    q, k, v = (normal(i, 6, 3, 4) for i in range(3))
    frames = {name: normal(i, 5, 3, 4) for i, name in enumerate("abc", start=3)}

    def call(mode, names, *tensors):
        return GroupAttention(mode, bank, ("self",)).attention("here", "self", *tensors, 2, names)

    with bank.evaluation():
        pairs = zip("abc", *(x.split(2) for x in (q, k, v)), strict=True)
        apart = torch.cat([call("gather", (name,), *own) for name, *own in pairs])
        expected = {n: call("swap", (n,), frames[n], frames[n], frames[n]) for n in "abc"}
    with bank.evaluation():
        assert_close(call("gather", ("a", "b", "c"), q, k, v), apart)
        mixed = torch.cat([frames["c"], frames["a"]])
        assert_close(call("swap", ("c", "a"), mixed, mixed, mixed), torch.cat([expected["c"], expected["a"]]))
    assert len(bank) == 0


def test_a_bank_without_the_group_says_so():
    with pytest.raises(RuntimeError, match="^gather-swap: here has no self-attention keys of the group"):
        x = normal(0, 1, 3, 4)
        GroupAttention("swap", KeyValueCache(), ("self",)).attention("here", "self", x, x, x, 2, ("a",))


def test_a_bank_is_empty_after_an_error():
    bank = KeyValueCache()
    with pytest.raises(KeyboardInterrupt), bank.evaluation():
        bank.put("a", "here", "self", normal(0, 1), normal(0, 1))
        raise KeyboardInterrupt
    assert len(bank) == 0


def shrink(x, sigma, **extra_args):
    """A denoiser that knows nothing of rows."""
    return 0.5 * x


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_lanes_are_appended_and_stripped(sampler):
    x, calls, seen = normal(1, 5, 2), [], []

    def model(x, sigma, frame_ids, sample_sigmas, seed):
        calls.append((len(x), frame_ids, sample_sigmas is SIGMAS))
        return shrink(x, sigma)

    arguments = ({"seed": 7}, seen.append)
    out = sample_with_rows((0, 2, 4), SAMPLERS[sampler], model, x, SIGMAS, *arguments)
    assert set(calls) == {(8, (0, 1, 2, 3, 4, 0, 2, 4), True)}
    assert all(len(state["x"]) == len(state["denoised"]) == 5 for state in seen) and len(seen) == 10
    assert_close(out, SAMPLERS[sampler](shrink, x, SIGMAS, {"seed": 7}))


def test_lanes_get_the_noise_of_their_own_frames():
    x, batches = normal(1, 5, 2), []

    def watching(model, x, sigmas, extra_args=None, callback=None, disable=None, noise_sampler=None):
        batches.append(noise_sampler(sigmas[0], sigmas[1]))
        return x

    sample_with_rows((0, 2, 4), watching, shrink, x, SIGMAS, {"seed": 1})
    assert batches[0].shape == (8, 2) and batches[0][5:].equal(batches[0][[0, 2, 4]])


def test_lanes_are_evaluated_only_in_the_chosen_steps():
    x, calls = normal(1, 8, 2), []

    class Calls:
        out_of_memory = ()

        def __call__(self, x, ids, *, replaced=None, grid=1, mixing=True, source=False, as_source=False):
            calls.append((getattr(replaced, "mode", None), tuple(ids), mixing))
            return x + len(calls)

        def rows_at_once(self, x, grid, wanted):
            return wanted or len(x)

    run = GatherSwap(group=3, start=0.1).begin_run(RunFacts(5, SIGMAS), frozenset())

    def evaluate(sigma):
        calls.clear()
        return run(x, sigma, Calls())

    assert_close(evaluate(14.0), (x + 1)[[*range(5), 0, 2, 4]])
    assert calls == [(None, (0, 1, 2, 3, 4), True)]
    out = evaluate(9.0)
    assert calls == [("gather", (0, 2, 4), False), ("swap", (0, 1, 2, 3, 4), True)]
    assert_close(out, torch.cat([x[:5] + 2, x[5:] + 1]))
    evaluate(0.3)  # where some samplers look a step ahead, and come back
    assert calls == [(None, (0, 2, 4), False), (None, (0, 1, 2, 3, 4), True)]
    assert_close(evaluate(0.1), (x + 1)[[*range(5), 0, 2, 4]])
    assert calls == [(None, (0, 1, 2, 3, 4), True)]
    with pytest.raises(ValueError, match="^sampler: goes back to steps that are done"):
        evaluate(9.0)


@pytest.mark.parametrize(("first", "end", "fits"), [(0, 0.8, True), (3, 0.8, False), (8, 0.8, True), (3, 0.3, True)])
def test_a_run_that_goes_on_amid_the_swap_is_refused(first, end, fits):
    facts = RunFacts(5, SIGMAS, first)
    if fits:
        GatherSwap(group=3, end=end).begin_run(facts, frozenset())
        return
    with pytest.raises(ValueError, match="latent_image: goes on at step 3 of 10, .* split it at step 8"):
        GatherSwap(group=3, end=end).begin_run(facts, frozenset())


@pytest.mark.parametrize("methods", [("gather-swap",), ("stam", "gather-swap")])
def test_outside_of_sampling_nothing_changes(methods):
    """The attachment has no weights and no part in a call of the U-Net that holds no lanes."""
    _, model, attached = with_methods(*methods, gather_swap={"group": 2})
    assert predict(attached, clip(), condition()).allclose(predict(model, clip(), condition()), atol=FLOAT32_STEP)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_double_samples_in_lock_step(sampler):
    """A clip of one frame is its own group, which is plain editing; of three it is not."""

    def run(backend, model, frames):
        progress = RecordedProgress()
        samples = clip(1).repeat(frames, 1, 1, 1) if frames == 1 else clip(frames)
        texts = [[torch.cat([condition(i)[0][0] for i in range(frames)]), {}]]
        out = backend.sample(model, texts, condition(9), 3.0, samples, SIGMAS.float(), progress, sampler=sampler,
                             middle=condition(8), middle_guidance=1.5)
        assert progress.values == list(range(1, 11)) and out.shape == samples.shape
        return out

    for frames, group in ((1, 1), (3, 2)):
        backend, model, attached = with_methods("gather-swap", gather_swap={"group": group})
        same = run(backend, attached, frames).allclose(run(backend, model, frames), atol=RUN)
        assert same == (frames == 1)


def test_the_double_refuses_a_rival_of_its_self_attention():
    with pytest.raises(ValueError, match="^model: ffam already replaces the self-attention of .*, so gather-swap"):
        with_methods("ffam", "gather-swap")
    with_methods("ffam", "gather-swap", gather_swap={"self_attention": False})
    with_methods("ffam", "gather-swap", ffam={"blocks": "down"}, gather_swap={"blocks": "up"})
