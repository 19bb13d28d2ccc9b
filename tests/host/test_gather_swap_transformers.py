"""Gather-swap on the host's FLUX and Qwen-Image transformers, against the paper's two passes with all rows of a frame's
own written out."""

from __future__ import annotations

import comfy.ldm.modules.attention
import comfy.model_base
import comfy.samplers
import narrow_flow
import pytest
import torch
from narrow_flow import TEXT, latent
from steadyedit.methods.registry import build_on
from steadyedit.methods.via.group_attention import KeyValueCache
from steadyedit.methods.via.joint_attention import JointGroupAttention, TokenLayout
from steadyedit.nodes.gather_swap import GatherSwap
from tolerances import FLOAT64, NETWORK
from toys import BACKEND, assert_untouched, traces, weights

FRAMES, GROUP, STEPS, CFG = 4, (0, 2, 3), 3, 2.0


def conditioning(seed, tokens, references, shape, masked=False, method=None, rows=FRAMES):
    """A prompt, and each frame's own references."""
    generator = torch.Generator().manual_seed(seed)
    extra = {"pooled_output": torch.randn(1, 16, generator=generator)}
    if references:
        extra["reference_latents"] = [torch.randn(rows, *shape[1:-2], *side, generator=generator)
                                      for side in references]  # fmt: skip
    if masked:
        extra["attention_mask"] = torch.tensor([[1] * (tokens - 2) + [0] * 2])
    if method:
        extra["reference_latents_method"] = method
    return [[torch.randn(1, tokens, TEXT, generator=generator), extra]]


#: model, latent's shape, and the two prompts: tokens, sizes of references, masked text, where references stand
CASES = {
    "flux": (narrow_flow.flux, (FRAMES, 16, 4, 6), dict(tokens=5, references=[(4, 6)]), dict(tokens=5, references=[])),
    "flux, two references": (narrow_flow.flux, (FRAMES, 16, 5, 6), dict(tokens=7, references=[(4, 6), (6, 4)]),
                             dict(tokens=3, references=[(4, 6)], method="index")),
    "flux, none": (narrow_flow.flux, (FRAMES, 16, 4, 4), dict(tokens=4, references=[]), dict(tokens=4, references=[])),
    "flux2": (narrow_flow.flux2, (FRAMES, 128, 3, 4), dict(tokens=5, references=[(3, 4), (2, 4)]),
              dict(tokens=3, references=[(3, 4)])),
    "qwen": (narrow_flow.qwen, (FRAMES, 16, 1, 4, 6), dict(tokens=6, references=[(4, 6)], masked=True),
             dict(tokens=4, references=[(4, 4), (6, 4)])),
    "qwen, timestep zero": (narrow_flow.qwen, (FRAMES, 16, 1, 4, 6),
                            dict(tokens=6, references=[(4, 6)], method="index_timestep_zero"),
                            dict(tokens=6, references=[(4, 6)], masked=True)),
}  # fmt: skip


def attached(patcher, **settings):
    return BACKEND.attach(patcher, build_on(BACKEND, patcher, "gather-swap", {"group": 3, "frames": GROUP, "end": 0.7,
                                                                              **settings}))


def sample(patcher, shape, positive, negative, sampler="euler", samples=None, steps=STEPS):
    noise = latent(*shape, seed=8) if samples is None else samples
    sigmas = torch.linspace(1, 0, steps + 1)
    guider = comfy.samplers.CFGGuider(patcher)
    guider.set_conds(positive, negative)
    guider.set_cfg(CFG)
    with torch.inference_mode():
        return guider.sample(noise, torch.zeros_like(noise), comfy.samplers.sampler_object(sampler), sigmas,
                             disable_pbar=True, seed=0)


class TwoPasses:
    """The paper's way for one frame at a time: all keys of the group's first pass kept, then read, by a plain float64
    softmax over explicit lists of tokens. It knows the tokens by their number, not by the host's words."""

    def __init__(self, mode, text, image, own_keys=False):
        self.mode, self.text, self.image, self.own_keys = mode, text, image, own_keys
        self.kept, self.number, self.before = {}, 0, None

    def __call__(self, func, q, k, v, heads, mask=None, **how):
        self.number += 1
        start, stop = self.text, self.text + self.image
        own = [x.double() for x in (q, k, v)]
        if self.mode == "gather":
            keys, values = (x[:, :, start:stop] for x in (own[1], own[2])) if self.before is None else (
                x for x in self.before[self.number])  # fmt: skip
            self.kept[self.number] = own[1][:, :, start:stop], own[2][:, :, start:stop]
            times = 1
        else:
            groups = [frame[self.number] for frame in self.kept]
            if self.own_keys:
                groups.insert(0, (own[1][:, :, start:stop], own[2][:, :, start:stop]))
            keys, values = (torch.cat([pair[i] for pair in groups], 2) for i in (0, 1))
            times = len(groups)
        out = torch.zeros_like(own[0])
        every = list(range(q.shape[2]))
        for inside, tokens in ((True, every[start:stop]), (False, every[:start] + every[stop:])):
            k_, v_ = own[1], own[2]
            columns = every
            if inside:
                k_, v_ = (torch.cat([x[:, :, :start], new, x[:, :, stop:]], 2) for x, new in ((k_, keys), (v_, values)))
                columns = columns[:start] + columns[start:stop] * times + columns[stop:]
            scores = torch.einsum("bhqd,bhkd->bhqk", own[0][:, :, tokens], k_) / q.shape[-1] ** 0.5
            if mask is not None:
                rows = mask if mask.shape[-2] == 1 else mask[..., tokens, :]
                scores = scores + rows[..., columns].double()
            out[:, :, tokens] = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(-1), v_)
        return out.transpose(1, 2).flatten(2).to(q.dtype)


def words_of(patcher, prompt):
    """A text as the network reads it: FLUX.2's is filled up in front."""
    words = prompt[0][0]
    short = 512 - words.shape[1] if isinstance(patcher.model, comfy.model_base.Flux2) else 0
    return torch.nn.functional.pad(words, (0, 0, short, 0))


def patches(shape, side):
    return -(-shape[-2] // side) * -(-shape[-1] // side)


def written_out(patcher, shape, prompts, own_keys=False, end=0.7, painted=None):
    """Each frame alone, one prompt after the other: the group first, its keys kept at every step."""
    network, noise = patcher.model.diffusion_model, latent(*shape, seed=8)
    sigmas, swapped = torch.linspace(1, 0, STEPS + 1), round(end * STEPS)
    base, image = patcher.model, patches(shape, network.patch_size)

    def one(x, sigma, frame, prompt, override):
        words, extra = words_of(patcher, prompt), prompt[0][1]
        references = [base.process_latent_in(r[frame : frame + 1]) for r in extra.get("reference_latents", [])] or None
        given = {"transformer_options": {"optimized_attention_override": override} if override else {}}
        if "reference_latents_method" in extra:
            given["ref_latents_method"] = extra["reference_latents_method"]
        t = torch.full((1,), float(sigma))
        if x.ndim == 5:
            return network(x, t, words, extra.get("attention_mask"), references, **given)
        return network(x, t, words, extra["pooled_output"], torch.full((1,), 3.5), references, **given)

    def run(frame, step_override, picture=None):
        x = noise[frame : frame + 1]
        for i in range(STEPS):
            if picture is not None:
                # A finished picture at this noise level, wherever a sampler would be.
                x = (1 - sigmas[i]) * base.process_latent_in(picture) + sigmas[i] * noise[frame : frame + 1]
            v = [one(x, sigmas[i], frame, prompt, step_override(i, j) if i < swapped else None)
                 for j, prompt in enumerate(prompts)]
            x = x + (sigmas[i + 1] - sigmas[i]) * (v[1] + CFG * (v[0] - v[1]))
        return x

    kept: dict = {}
    last: dict = {}
    for number, frame in enumerate(GROUP):
        here: dict = {}

        def gather(i, j, here=here):
            made = TwoPasses("gather", words_of(patcher, prompts[j]).shape[1], image)
            made.before = last.get((i, j))
            here[i, j] = made
            return made

        run(frame, gather, None if painted is None else painted[number : number + 1])
        for key, made in here.items():
            kept.setdefault(key, []).append(made.kept)
            if painted is None:
                last[key] = made.kept

    def swap(i, j):
        made = TwoPasses("swap", words_of(patcher, prompts[j]).shape[1], image, own_keys)
        made.kept = kept[i, j]
        return made

    return base.process_latent_out(torch.cat([run(frame, swap) for frame in range(FRAMES)]))


@pytest.mark.once
@pytest.mark.parametrize("case, own_keys", [(case, own) for case in CASES for own in (False, True)
                                            if not own or case != "flux2"])
def test_it_is_the_two_passes_of_the_paper(case, own_keys):
    made, shape, *prompts = CASES[case]
    patcher, prompts = made(), [conditioning(i + 1, shape=shape, **prompt) for i, prompt in enumerate(prompts)]
    found = sample(attached(patcher, own_keys=own_keys), shape, *prompts)
    expected = written_out(patcher, shape, prompts, own_keys)
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    plain = sample(patcher, shape, *prompts)
    assert (found - plain).abs().max() > 30 * NETWORK * plain.abs().max(), "the swap must show"


@pytest.mark.parametrize("case", ["flux, two references", "qwen"])
def test_painted_key_frames_are_the_group(case):
    """By the node: their keys at each noise level, whatever the sampler makes of these frames."""
    made, shape, *prompts = CASES[case]
    patcher, prompts = made(), [conditioning(i + 1, shape=shape, **prompt) for i, prompt in enumerate(prompts)]
    painted = latent(len(GROUP), *shape[1:], seed=11)
    by_node = GatherSwap.execute(patcher, 4, True, True, 0.0, 0.7, "all", 2, "0, 2, 3", {"samples": painted})[0]
    found = sample(by_node, shape, *prompts)
    expected = written_out(patcher, shape, prompts, painted=painted)
    assert (found - expected).abs().max() < NETWORK * expected.abs().max()
    edited = sample(attached(patcher), shape, *prompts)
    assert (found - edited).abs().max() > 30 * NETWORK * edited.abs().max(), "the paint must show"


def test_painted_key_frames_that_do_not_fit_are_told():
    made, shape, *prompts = CASES["flux"]
    prompts = [conditioning(i + 1, shape=shape, **prompt) for i, prompt in enumerate(prompts)]

    def swapped(size, numbers="0, 2"):
        return GatherSwap.execute(made(), 4, True, True, 0.0, 0.7, "all", 0, numbers, {"samples": latent(*size)})[0]

    with pytest.raises(ValueError, match="key_frames: holds 2 frames, but group_frames names 0; name the number"):
        swapped((2, *shape[1:]), "")
    with pytest.raises(ValueError, match=r"key_frames: are latents of \[16, 6, 6\], but the clip's are \[16, 4, 6\]"):
        sample(swapped((2, 16, 6, 6)), shape, *prompts)
    with pytest.raises(ValueError, match="noise: is disabled, so that key_frames can not be brought"):
        sample(swapped((2, *shape[1:])), shape, *prompts, samples=torch.zeros(shape))


@pytest.mark.parametrize("mode", ["gather", "swap"])
@pytest.mark.parametrize("per_query", [False, True])
def test_one_attention_in_float64_with_unequal_tokens_and_masks(mode, per_query):
    """Against a sum over tokens by their numbers, to float64's rounding."""
    tokens, heads, d, rows = TokenLayout(3, 4, 5), 2, 6, 2
    generator = torch.Generator().manual_seed(1)
    q, k, v = torch.randn(3, rows, heads, tokens.total, d, generator=generator, dtype=torch.float64)
    mask = torch.randn(1, tokens.total if per_query else 1, tokens.total, generator=generator, dtype=torch.float64)
    attend = lambda q, k, v, mask: comfy.ldm.modules.attention.attention_pytorch(  # noqa: E731
        q, k, v, heads, mask=mask, skip_reshape=True)
    cache, group = KeyValueCache(), torch.randn(2, 3, heads, 4, d, generator=generator, dtype=torch.float64)
    if mode == "swap":
        cache.put("branch", "double_blocks.0", "joint", *group)
    ours = JointGroupAttention(mode, cache, frozenset(["double_blocks.0"]))
    found = ours.joint("double_blocks.0", q, k, v, tokens, ("branch",), attend, mask)
    for row in range(rows):
        oracle = TwoPasses(mode, 3, 4)
        if mode == "swap":
            oracle.kept = [{1: (group[0][i : i + 1], group[1][i : i + 1])} for i in range(3)]
        elif row:
            oracle.before = {1: (k[:1, :, 3:7], v[:1, :, 3:7])}
        expected = oracle(None, q[row : row + 1], k[row : row + 1], v[row : row + 1], heads, mask)
        assert (found[row : row + 1] - expected).abs().max() < FLOAT64 * expected.abs().max()


@pytest.mark.parametrize("case", ["flux", "qwen"])
def test_chunks_and_other_samplers_change_nothing_and_nothing_stays(case):
    made, shape, *prompts = CASES[case]
    patcher, prompts = made(), [conditioning(i + 1, shape=shape, **prompt) for i, prompt in enumerate(prompts)]
    before, marks = weights(patcher), traces(patcher)
    whole = sample(attached(patcher), shape, *prompts, sampler="dpmpp_2m")
    parts = sample(attached(patcher, chunk=1), shape, *prompts, sampler="dpmpp_2m")
    assert (whole - parts).abs().max() < NETWORK * whole.abs().max()
    assert_untouched(patcher, before, marks)


def test_another_nodes_override_computes_what_ours_asks_for():
    made, shape, *prompts = CASES["flux"]
    patcher, prompts = made(), [conditioning(i + 1, shape=shape, **prompt) for i, prompt in enumerate(prompts)]
    calls = []

    def foreign(func, *args, **kwargs):
        calls.append(1)
        return func(*args, **kwargs)

    other = patcher.clone()
    other.model_options["transformer_options"]["optimized_attention_override"] = foreign
    assert torch.equal(sample(attached(other), shape, *prompts), sample(attached(patcher), shape, *prompts)) and calls


def test_bad_input_is_told():
    made, shape, positive, negative = CASES["qwen"]
    patcher = made()
    prompts = [conditioning(1, shape=shape, **positive), conditioning(2, shape=shape, **negative)]
    with pytest.raises(ValueError, match="positive: holds references of 3 frames, but the clip has 4"):
        sample(attached(patcher), shape, conditioning(1, shape=shape, rows=3, **positive), prompts[1])
    with pytest.raises(ValueError, match="layers: a diffusion transformer has no 'up' stage"):
        attached(patcher, blocks="up")
    with pytest.raises(ValueError, match="self_attention: a diffusion transformer has one attention"):
        attached(patcher, self_attention=False)
    with pytest.raises(TypeError, match="model: this needs a U-Net of Stable Diffusion 1.x, 2.x or SDXL, FLUX"):
        attached(narrow_flow.wan())
    with pytest.raises(TypeError, match="model: this needs a U-Net"):
        build_on(BACKEND, patcher, "stam", {})
    with pytest.raises(ValueError, match="latent_image: holds 4 frames on one time axis"):
        sample(attached(patcher), (1, 16, 4, 4, 6), *prompts)


@pytest.mark.parametrize("case", ["flux", "qwen"])
def test_the_node_takes_them(case):
    made, shape, *prompts = CASES[case]
    prompts = [conditioning(i + 1, shape=shape, **prompt) for i, prompt in enumerate(prompts)]
    by_node = GatherSwap.execute(made(), 3, True, True, 0.0, 0.7, "all", 0, "0, 2, 3")[0]
    assert torch.equal(sample(by_node, shape, *prompts), sample(attached(made()), shape, *prompts))
