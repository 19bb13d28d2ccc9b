"""LoRA-Edit in windows on the host's own sampler, guider and a small Wan."""

from __future__ import annotations

import pytest
import torch
from comfy_extras import nodes_custom_sampler as custom
from steadyedit import nodes
from test_lora_edit import VideoVAE, mask, text, video
from toys import assert_untouched, traces, weights
from videos import model

NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
SIGMAS = torch.tensor([1.0, 0.6, 0.0])
SETTINGS = {"keep": "outside, first frame", "family": "Wan 2.1", "pooling": "any", "soft": False}


class Both(VideoVAE):
    """Decodes cells as blocks of one colour, a latent frame as four; remembers what it was given to encode."""

    seen: list = []

    def encode(self, images):
        self.seen.append(images.clone())
        return super().encode(images)

    def decode(self, samples):
        frames = samples[0, :3].permute(1, 2, 3, 0).sigmoid()
        frames = torch.cat([frames[:1], frames[1:].repeat_interleave(4, 0)])
        return frames.repeat_interleave(8, 1).repeat_interleave(8, 2)[None]


def guider(patcher):
    return custom.CFGGuider.execute(patcher, text(1), text(2), 3.0)[0]


def edited(patcher, clip, **changes):
    from steadyedit.methods.lora_edit.choices import WAN

    settings = {**SETTINGS, "family": WAN, "length": 13, "overlap": 1, "seed": 4, "match_colour": False, **changes}
    euler = custom.KSamplerSelect.execute("euler")[0]
    with torch.inference_mode():
        return NODES["SteadyEditMaskWindows"].execute(
            guider(patcher), euler, SIGMAS, Both(), clip, mask=mask(len(clip)), edited_first_frame=clip[:1] * 0.5,
            **settings)[0]  # fmt: skip


def test_in_one_window_it_is_the_graph_of_single_nodes():
    from steadyedit.methods.lora_edit.choices import WAN

    clip, patcher = video(5), model("plain")
    with torch.inference_mode():
        positive, negative, latent = NODES["SteadyEditMaskCondition"].execute(
            text(1), text(2), Both(), clip, mask=mask(), edited_first_frame=clip[:1] * 0.5, **SETTINGS | {"family": WAN}
        ).result  # fmt: skip
        plain = custom.CFGGuider.execute(patcher, positive, negative, 3.0)[0]
        noise = custom.RandomNoise.execute(4)[0]
        euler = custom.KSamplerSelect.execute("euler")[0]
        done = custom.SamplerCustomAdvanced.execute(noise, plain, euler, SIGMAS, latent)[0]
        expected = Both().decode(done["samples"])[0]
    assert torch.equal(edited(patcher, clip), expected)


def test_windows_go_on_from_one_another_and_the_model_is_as_it_was():
    patcher, clip = model("plain"), video(9)
    before, marks = weights(patcher), traces(patcher)
    out = edited(patcher, clip, length=5)
    assert out.shape == clip.shape and torch.isfinite(out).all()
    # The second window goes on from the first one's last frame; the next is gray where it is made anew.
    first, second = Both.seen[-2:]
    assert torch.equal(first[0], clip[0] * 0.5) and torch.equal(second[0], out[4])
    assert (second[1:, 8:20, 10:30] == 0.5).all() and torch.equal(second[1:, 24:], clip[5:, 24:])
    edited(patcher, clip, length=5, gray="official")
    assert (Both.seen[-1][1:, 8:20, 10:30] == torch.tensor(128 / 255)).all()
    assert (edited(patcher, clip, length=5, match_colour=True)[5:] - out[5:]).abs().max() > 1e-4
    assert_untouched(patcher, before, marks)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="overlap: expected fewer than the 5 frames"):
        edited(model("plain"), video(9), length=5, overlap=5)
    with pytest.raises(ValueError, match="sampler: euler_ancestral draws new noise"):
        euler = custom.KSamplerSelect.execute("euler_ancestral")[0]
        with torch.inference_mode():
            from steadyedit.methods.lora_edit.choices import WAN

            NODES["SteadyEditMaskWindows"].execute(
                guider(model("plain")), euler, SIGMAS, Both(), video(9), mask=mask(9), length=5, overlap=1, seed=4,
                match_colour=False, **SETTINGS | {"family": WAN})  # fmt: skip
