"""Prompt-to-Prompt on the host's MODEL: equal to diffusers, by the host's own CLIP, and beside the host's own nodes."""

from __future__ import annotations

import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from steadyedit import nodes
from steadyedit.backends.diffusers import DiffusersBackend, DiffusersModel
from steadyedit.backends.diffusers.control import ControlNet
from steadyedit.methods.prompt_to_prompt import LocalBlend, SourceText, TextTokens, align, marked, token_weights
from steadyedit.methods.registry import build
from tolerances import NETWORK, RUN
from toys import (
    BACKEND,
    SIDE,
    Quiet,
    assert_close,
    assert_untouched,
    clip,
    controlnet,
    diffusers_controlnet,
    diffusers_unet,
    model,
    separate_calls,
    text,
    traces,
    under,
    weights,
)

FRAMES, STEPS = 3, 3
OTHER = DiffusersBackend()


def read(line):
    """One token a word, as many in all as the conditions of these tests have."""
    length = text(1)[0][0].shape[1]

    def encode(part):
        ids = [hash(word) for word in part.split()]
        return [0, *ids, *[1] * (length - 1 - len(ids))]

    return TextTokens.read(line, encode)


def controlled(backend, value, line="a big purple fish", blend=True, **settings):
    before, after = read("a green fish"), read(line)
    config = {"source": SourceText(text(3)), "alignment": align(before, after)}
    if "purple" in line:
        config["weights"] = token_weights(after, "purple: 1.5")
    if blend:
        config["blend"] = LocalBlend(marked("", before, "fish"), marked("", after, "purple"), 0.95, 0.3)
    return backend.attach(value, build("prompt-to-prompt", backend.sites(value), config | settings))


def run(backend, value, positive=None, negative=None, sampler="euler", steps=STEPS):
    levels = backend.schedule(value).ddim_sigmas(steps)
    start = backend.from_model_space(value, clip(FRAMES, seed=8) * levels[0])
    return backend.sample(value, positive or text(1), negative or text(2), 4.0, start, levels, Quiet(),
                          sampler=sampler, seed=3)


@pytest.mark.parametrize("sampler, settings", [("euler", {}), ("euler_ancestral", {"chunk": 2, "blend": False})])
def test_both_backends_agree(sampler, settings):
    """With a ControlNet under both conditions, which the source sees too."""
    shown = torch.rand(FRAMES, 8 * SIDE, 8 * SIDE, 3, generator=torch.Generator().manual_seed(7))
    here = run(BACKEND, controlled(BACKEND, model(), **settings), under(controlnet(), shown, text(1), 0.8),
               under(controlnet(), shown, text(2), 0.8), sampler)
    control = ControlNet(diffusers_controlnet()).applied(shown, 0.8)
    conditions = [[[c[0][0], {**c[0][1], "control": control}]] for c in (text(1), text(2))]
    there = controlled(OTHER, DiffusersModel(diffusers_unet()), **settings)
    if sampler == "euler":
        assert_close(here, run(OTHER, there, *conditions, sampler=sampler), RUN)
    assert (run(BACKEND, model(), sampler=sampler) - here).abs().max() > 1e-2


def test_chunks_and_batches_of_conditions_do_not_matter():
    whole = run(BACKEND, controlled(BACKEND, model()))
    for patcher in (controlled(BACKEND, model(), chunk=1), separate_calls(controlled(BACKEND, model(), chunk=2))):
        assert_close(run(BACKEND, patcher), whole)


def test_equal_prompts_give_the_source_also_where_frames_see_each_other():
    mixing = BACKEND.attach(model(), build("sparse-causal", BACKEND.sites(model()), {}))
    same = controlled(BACKEND, mixing, "a green fish", False, self_steps=1.0)
    assert_close(run(BACKEND, same, text(3)), run(BACKEND, mixing, text(3)))


def test_the_model_is_as_it_was():
    plain = model()
    before, marks, alone = weights(plain), traces(plain), run(BACKEND, plain)
    first = run(BACKEND, controlled(BACKEND, plain))
    assert torch.equal(run(BACKEND, controlled(BACKEND, plain).clone()), first)
    assert torch.equal(run(BACKEND, plain), alone)
    assert_untouched(plain, before, marks)


def test_the_nodes_in_a_row():
    """The toy world's own model and words; the green of a fish turns purple and the background is the source's."""
    known = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
    with torch.inference_mode():
        value, words, _ = BACKEND.load_toy()
        given = {"source": "a green fish on grass", "target": "a (purple:1.2) fish on grass", "edit": "auto",
                 "cross_steps": 0.8, "self_steps": 0.4, "self_size": 32, "weights": "purple: 2", "threshold": 0.9,
                 "blend_source": "green fish", "blend_target": "purple", "blend_start": 0.2, "chunk": 0}
        edited, positive, source = known["SteadyEditPromptToPrompt"].execute(value, words, **given)
        levels = BACKEND.schedule(value).ddim_sigmas(STEPS)
        start = {"samples": BACKEND.from_model_space(value, clip(2, seed=8) * levels[0])}
        empty = words.encode_from_tokens_scheduled(words.tokenize(""))
        euler = custom.KSamplerSelect.execute("euler")[0]
        out, plain, old = (custom.SamplerCustom.execute(m, False, 0, 4.0, c, empty, euler, levels, start)[0]["samples"]
                           for m, c in ((edited, positive), (value, positive), (value, source)))
    same = (out - old).abs().amax(1) < NETWORK
    assert 0 < same.float().mean() < 1
    assert (out - plain).abs().max() > 1e-2
    with pytest.raises(ValueError, match="target: is empty; write what the clip shall show"):
        known["SteadyEditPromptToPrompt"].execute(value, words, **given | {"target": " "})
    with pytest.raises(ValueError, match="blend_source: 'cat' is no word of 'a green fish on grass'"):
        known["SteadyEditPromptToPrompt"].execute(value, words, **given | {"blend_source": "cat"})


def test_what_does_not_go_with_it():
    value = controlled(BACKEND, model())
    two = [*text(1), *text(2)]
    with pytest.raises(ValueError, match="positive: holds 2 conditions, but Prompt-to-Prompt edits one prompt"):
        run(BACKEND, value, two)
    owned = model()
    owned.set_model_attn1_replace(lambda q, k, v, options: q, "middle", 0)
    with pytest.raises(ValueError, match="another node already replaces the self-attention"):
        run(BACKEND, controlled(BACKEND, owned))
    assert run(BACKEND, value, sampler="heun").isfinite().all()
