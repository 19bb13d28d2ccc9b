"""TokenFlow on a diffusers U-Net against its authors' order of things: source, negative and positive in one batch."""

from __future__ import annotations

import copy

import pytest
import torch
from steadyedit.backends.diffusers import Denoiser
from steadyedit.backends.diffusers.sampling import sample
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.methods.registry import build
from steadyedit.methods.tokenflow import Source, TokenFlow
from steadyedit.methods.tokenflow.propagation import neighbours
from test_diffusers_via import EXACT, error
from tiny_editor import BACKEND, SIDE, normal, text, tiny
from two_pass import softmax_attention

FRAMES, STEPS, GUIDANCE = 5, 4, 7.5
POSITIVE, NEGATIVE, EMPTY = text(1), text(2), text(3)


class Quiet:
    def update(self, value, preview=None, **numbers):
        """Shows nothing."""


@pytest.fixture(scope="module")
def painter():
    return tiny(in_channels=4)


@pytest.fixture(scope="module")
def sigmas(painter):
    return painter.schedule.ddim_sigmas(STEPS).double()


def inverted(painter, sigmas, clip):
    """In float64 as it comes, so that the literal form reads the same numbers."""
    return Trajectory(BACKEND.invert(painter, EMPTY, clip, sigmas.flip(0), 0, Quiet()), sigmas.flip(0))


@pytest.fixture(scope="module")
def trajectory(painter, sigmas):
    return inverted(painter, sigmas, 5 * normal(4, FRAMES, 4, SIDE, SIDE))


def flowing(painter, trajectory, **settings):
    return BACKEND.attach(painter, build("tokenflow", BACKEND.sites(painter),
                                         {"source": Source(trajectory, EMPTY), "spacing": 2, **settings}))


def run(model, trajectory, sigmas, sampler="euler", **options):
    frames = trajectory.shape[0]
    denoise = Denoiser(model, POSITIVE, NEGATIVE, GUIDANCE, frames=frames, **options)
    start = BACKEND.to_model_space(model, trajectory[STEPS, range(frames)])
    return sample(denoise, sampler, start, sigmas, {"seed": 3})


class Literal:
    """Three thirds in a batch, and attentions that keep what the next pass reads. It owns its U-Net."""

    def __init__(self, painter, trajectory, settings):
        self.unet, self.schedule, self.settings = copy.deepcopy(painter.unet), painter.schedule, settings
        self.source = [x * painter.latent_scale for x in reversed(list(trajectory.steps))]
        self.inputs, self.outputs, self.mode = {}, {}, None
        for name, attention in self.unet.named_modules():
            if name.endswith("attn1"):
                attention.set_processor(self.processor(name))
        # The decoder's second layer.
        block = self.unet.up_blocks[0].resnets[1]
        block.conv2.register_forward_hook(self.inject_branch)

    def early(self, share):
        return self.settings.injection and self.step < int(share * STEPS)

    def inject_branch(self, module, args, h):
        return torch.cat([h[: len(h) // 3]] * 3) if self.early(self.settings.residual_steps) else h

    def processor(self, name):
        def attend(attn, x):
            out = torch.empty_like(x)
            n = len(x) // 3
            q, k, v = attn.to_q(x), attn.to_k(x), attn.to_v(x)
            for i in range(n):
                out[i] = softmax_attention(q[i], k[i], v[i], attn.heads)
            if "up_blocks.0.attentions.1" in name and self.early(self.settings.attention_steps):
                q, k = torch.cat([q[:n]] * 3), torch.cat([k[:n]] * 3)
            for part in (1, 2):
                rows = slice(part * n, (part + 1) * n)
                for i in range(n):
                    out[part * n + i] = softmax_attention(q[rows][i], k[rows].flatten(0, 1), v[rows].flatten(0, 1),
                                                          attn.heads)
            return attn.to_out[0](out)

        def carried(attn, x):
            n = len(x) // 3
            own = attend(attn, x)
            for row, frame in enumerate(self.frames):
                looked = []
                for keyframe in self.around(frame):
                    near = torch.nn.functional.normalize(x[row], dim=-1)
                    keys = torch.nn.functional.normalize(self.inputs[name][keyframe], dim=-1)
                    looked.append((keyframe, (near @ keys.T).argmax(1)))
                for part in (1, 2):
                    kept = self.outputs[name].chunk(3)[part]
                    (a, first), (b, second) = looked[0], looked[-1]
                    share = self.share(frame)
                    own[part * n + row] = share * kept[b][second] + (1 - share) * kept[a][first]
            return own

        class Processor:
            def __call__(_, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
                if self.mode == "others":
                    return carried(attn, hidden_states)
                self.inputs[name] = hidden_states[: len(hidden_states) // 3]
                self.outputs[name] = attend(attn, hidden_states)
                return self.outputs[name]

        return Processor()

    def around(self, frame):
        before = [n for n, key in enumerate(self.keys) if key < frame]
        after = [n for n, key in enumerate(self.keys) if key > frame]
        return [(before or after[:1])[-1], (after or before[-1:])[0]]

    def share(self, frame):
        a, b = (self.keys[n] for n in self.around(frame))
        if a == b:
            return 0.5
        before, after = abs(frame - a), abs(b - frame)
        return 1 / (1 + torch.tensor(-before / (before + after), dtype=torch.float64).exp())

    def third(self, x, sigma, frames, mode):
        self.frames, self.mode = frames, mode
        batch = torch.cat([self.source[self.step][frames], x[frames], x[frames]]) / (1 + sigma**2).sqrt()
        words = torch.cat([c[0][0].expand(len(frames), -1, -1) for c in (EMPTY, NEGATIVE, POSITIVE)])
        noise = self.unet(batch, self.schedule.timestep(sigma[None]), encoder_hidden_states=words).sample
        _, negative, positive = noise.chunk(3)
        return negative + GUIDANCE * (positive - negative)

    @torch.no_grad()
    def edit(self, sigmas):
        x = self.source[0]
        for self.step, (now, then) in enumerate(zip(sigmas[:-1], sigmas[1:], strict=True)):
            self.keys = list(self.settings.keyframes(FRAMES, self.step))
            noise = torch.empty_like(x)
            noise[self.keys] = self.third(x, now, self.keys, "keys")
            for frame in set(range(FRAMES)) - set(self.keys):
                noise[[frame]] = self.third(x, now, [frame], "others")
            x = x + (then - now) * noise
        return x


@pytest.mark.parametrize("settings", [{"injection": False}, {}, {"spacing": 3, "seed": 2, "attention_steps": 1.0},
                                      {"spacing": 1}, {"spacing": 9}], ids=str)
def test_it_is_the_authors_procedure(painter, sigmas, trajectory, settings):
    model = flowing(painter, trajectory, **settings)
    expected = Literal(painter, trajectory, model.attachments[0].plan).edit(sigmas)
    assert error(run(model, trajectory, sigmas), expected) < EXACT
    assert error(run(painter, trajectory, sigmas), expected) > 1e-3


def test_with_every_frame_a_keyframe_it_is_extended_attention(painter, sigmas, trajectory):
    """Without injection the source has no part in it."""
    unet = copy.deepcopy(painter.unet)

    class Extended:
        def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **kwargs):
            q, k, v = (project(hidden_states) for project in (attn.to_q, attn.to_k, attn.to_v))
            out = []
            for rows in range(0, len(q), FRAMES):  # one condition after the other
                keys, values = (x[rows : rows + FRAMES].flatten(0, 1) for x in (k, v))
                out += [softmax_attention(q[i], keys, values, attn.heads) for i in range(rows, rows + FRAMES)]
            return attn.to_out[0](torch.stack(out))

    for name, attention in unet.named_modules():
        if name.endswith("attn1"):
            attention.set_processor(Extended())
    plain = copy.copy(painter)
    object.__setattr__(plain, "unet", unet)
    expected = run(plain, trajectory, sigmas)
    assert error(run(flowing(painter, trajectory, spacing=1, injection=False), trajectory, sigmas), expected) < EXACT


@pytest.mark.parametrize("injection", [True, False])
def test_on_a_still_clip_all_frames_come_out_equal(painter, sigmas, injection):
    still = inverted(painter, sigmas, (5 * normal(6, 1, 4, SIDE, SIDE)).repeat(FRAMES, 1, 1, 1))
    out = run(flowing(painter, still, injection=injection), still, sigmas)
    assert error(out, out[:1].expand_as(out)) < EXACT
    # Tokens of equal frames extend no attention: without injection it is plain sampling.
    assert (error(out, run(painter, still, sigmas)) < EXACT) == (not injection)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("options", [{"chunk": 1}, {"chunk": 2}, {"chunk": 3, "joint": False}], ids=str)
def test_chunks_and_branches_change_nothing(painter, sigmas, trajectory, sampler, options):
    model = flowing(painter, trajectory)
    whole = run(model, trajectory, sigmas, sampler, chunk=FRAMES)
    assert error(run(model, trajectory, sigmas, sampler, **options), whole) < EXACT


def test_memory_that_runs_out_changes_nothing(painter, sigmas, trajectory):
    model = flowing(painter, trajectory, spacing=5)
    whole, calls = run(model, trajectory, sigmas), []

    def look(module, args):
        calls.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("no more")

    hook = painter.unet.register_forward_pre_hook(look)
    try:
        assert error(run(model, trajectory, sigmas), whole) < EXACT
    finally:
        hook.remove()
    assert max(calls) > 2


def test_keyframes_are_drawn_anew_one_of_each_stretch():
    flow = TokenFlow(None, spacing=3, seed=1)
    drawn = [flow.keyframes(8, step) for step in range(200)]
    assert all(a // 3 == n for keys in drawn for n, a in enumerate(keys)) and all(len(keys) == 3 for keys in drawn)
    assert {keys[0] for keys in drawn} == {0, 1, 2} and {keys[2] for keys in drawn} == {6, 7}
    assert drawn[:50] == [flow.keyframes(8, step) for step in range(50)]
    assert TokenFlow(None, spacing=1).keyframes(4, 0) == (0, 1, 2, 3)


def test_neighbours_and_weights():
    past, future, weight = neighbours([0, 3, 4, 9], [2, 6])
    assert past.tolist() == [0, 0, 0, 1] and future.tolist() == [0, 1, 1, 1]
    assert torch.allclose(weight, torch.tensor([0.0, 0.25, 0.5, 0.0]).sigmoid())


def test_the_model_is_as_before(painter, sigmas, trajectory):
    before = run(painter, trajectory, sigmas)
    weights = copy.deepcopy(painter.unet.state_dict())
    run(flowing(painter, trajectory), trajectory, sigmas)
    assert torch.equal(run(painter, trajectory, sigmas), before)
    assert all(torch.equal(weights[name], value) for name, value in painter.unet.state_dict().items())
    assert painter.attachments == ()


@pytest.mark.parametrize("other", ["stam", "ffam", "gather-swap", "rave"])
def test_what_mixes_frames_is_refused(painter, trajectory, other):
    ours, its = "TokenFlow edits keyframes apart from the other frames", "RAVE lays several frames out as one picture"
    way = {"gather-swap": "gather-swap treats frames in a way of its own", "rave": its}.get(
        other, f"{other} lets frames see each other one by one")  # fmt: skip
    with pytest.raises(ValueError, match=f"^model: ({ours}, but {way}|{its}, but {ours}); give the model only one"):
        BACKEND.attach(flowing(painter, trajectory), build(other, BACKEND.sites(painter), {}))


def test_bad_settings_and_clips_that_do_not_fit(painter, sigmas, trajectory):
    for bad in ({"spacing": 0}, {"chunk": -1}, {"attention_steps": 1.5}, {"residual_steps": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
            TokenFlow(None, **bad)
    short = Trajectory([x[:3] for x in trajectory.steps], trajectory.sigmas)
    with pytest.raises(ValueError, match="latent_image: 5 frames, but the inversion at TokenFlow has 3"):
        run(flowing(painter, short), trajectory, sigmas)
    other = painter.schedule.ddim_sigmas(STEPS - 1).double()
    with pytest.raises(ValueError, match="sigmas: sampling passes noise level"):
        run(flowing(painter, trajectory), trajectory, other)
