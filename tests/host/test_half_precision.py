"""``--fp16-unet``, ``--bf16-unet``, ``--fp8_e4m3fn-unet`` in the host: attachments sample, invert and train.

What such a flag changes is the weights, rounded, and on a card the type that is computed in. A CPU computes in float32
whatever is stored, so that both are looked at apart: stored narrow against the same weights rounded, and computed in
half (as where the card can) against float32.
"""

from __future__ import annotations

import copy

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import narrow_flow
import pytest
import torch
import videos
from comfy.cli_args import args
from safetensors.torch import load_file
from steadyedit.backends.comfy_native import training, video, video_network
from steadyedit.diffusion.trajectory import Trajectory
from steadyedit.kernels.token_propagation import matched as token_matching
from steadyedit.kernels.token_propagation.matched import nearest
from steadyedit.methods.registry import build, build_on
from steadyedit.methods.tokenflow import Source
from steadyedit.methods.tuning import TuneRecipe, tune
from steadyedit.methods.via.blend import BoundaryBlend
from test_lora_edit_training import ANY, KINDS, SIGMA, moving_lora, relative_error
from test_training import narrow_sd15
from tolerances import HALF_RUN, NETWORK
from toys import BACKEND, METHODS, SAMPLING, Quiet, clip, moved, sample

pytestmark = pytest.mark.once
FLAGS = {"fp16_unet": torch.float16, "bf16_unet": torch.bfloat16, "fp8_e4m3fn_unet": torch.float8_e4m3fn}
HALVES = {name: FLAGS[name] for name in ("fp16_unet", "bf16_unet")}
ALL = {**METHODS, **SAMPLING, "plain": {}, "norm-tune": {}, "visual-adapter": {"positions": (3,)}, "joint-norms": {},
       "tokenflow": {"spacing": 2}}  # fmt: skip
WORDS = [[[torch.randn(1, 77, 768, generator=torch.Generator().manual_seed(seed)), {}]] for seed in (1, 2)]
FRAMES, STEPS = 4, 1
#: Storage, and float16, are one matter for all methods: these stand for them. In bfloat16 all are looked at.
SOME = ("plain", "stam", "norm-tune", "tokenflow")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(comfy.supported_models.SD15.unet_config, "model_channels", 32)
        path = tmp_path_factory.mktemp("unet") / "unet.safetensors"
        narrow_sd15(path, scaled=False)
        yield path


@pytest.fixture(scope="module")
def whole(file):
    return loaded(file)


def loaded(file, flag="fp32_unet", rounded=torch.float32, computes=False):
    """A MODEL by the host's own loader under one of its flags; ``computes``: in what it is stored in, as on a card."""
    state = {key: value.to(rounded).float() for key, value in load_file(file).items()}
    with pytest.MonkeyPatch.context() as patch:
        for name in (*FLAGS, "fp32_unet"):
            patch.setattr(args, name, name == flag)
        if computes:
            patch.setattr(comfy.model_management, "unet_manual_cast", lambda *given, **more: None)
        # As in a node run.
        with torch.inference_mode():
            return comfy.sd.load_diffusion_model_state_dict(state)


def attached(patcher, name, samples):
    """The MODEL with a method that does something."""
    if name == "plain":
        return patcher
    settings = dict(ALL[name])
    if name == "tokenflow":
        levels = BACKEND.schedule(patcher).ddim_sigmas(STEPS).flip(0)
        settings["source"] = Source(Trajectory(inverted(patcher, samples), levels), WORDS[0])
    return BACKEND.attach(patcher, moved(build_on(BACKEND, patcher, name, settings)))


def inverted(patcher, samples):
    sigmas = BACKEND.schedule(patcher).ddim_sigmas(STEPS).flip(0)
    return BACKEND.invert(patcher, WORDS[0], samples, sigmas, 0, Quiet())


def edited(patcher, name):
    """The end of an inversion, and of sampling from it."""
    samples = clip(FRAMES)
    with torch.inference_mode():
        model = attached(patcher, name, samples)
        # What only samples has its start from the plain model's inversion.
        path = inverted(patcher if name in SAMPLING or name == "tokenflow" else model, samples)
        words = {"positive": WORDS[1], "negative": WORDS[0]}
        return path[-1], sample(model, samples=path[-1], guidance=3.0, steps=STEPS, **words)


def off(found, expected):
    assert found.isfinite().all() and found.dtype == torch.float32
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("flag", FLAGS)
def test_stored_narrow_is_as_the_same_weights_rounded(file, flag):
    """To rounding of float32, norms and biases included: nothing is rounded a second time or read in another type.

    Beside the unrounded weights the same runs are 0.002 (fp16), 0.02 (bf16) and 0.2 (fp8) off, relative.
    """
    stored, rounded = loaded(file, flag), loaded(file, rounded=FLAGS[flag])
    assert {p.dtype for p in stored.model.diffusion_model.parameters()} == {FLAGS[flag]}
    for name in SOME:
        for found, expected in zip(edited(stored, name), edited(rounded, name), strict=True):
            assert off(found, expected) < NETWORK, name


class Neighbours:
    """Takes the place of TokenFlow's search: keeps what it finds, or gives what was kept and looks how that differs.

    Of two tokens that are as near, rounding chooses, on each processor its own, and from there on frames differ by what
    the two differ in.
    """

    def __init__(self):
        self.kept, self.given, self.other, self.farther = [], None, [], 0.0

    def __call__(self, near, keys):
        own = nearest(near, keys)
        if self.given is None:
            self.kept.append(own)
            return own
        before = next(self.given)
        similar = near @ keys.T
        apart = similar.gather(-1, own[..., None]) - similar.gather(-1, before[..., None])
        self.other.append((own != before).float().flatten())
        self.farther = max(self.farther, apart.max().item())
        return before


@pytest.mark.parametrize("flag", HALVES)
def test_computed_in_half_is_beside_float32(file, whole, flag, monkeypatch):
    """As near as the model by itself is: one step, since a network of random weights grows a difference with each."""
    half, bound = loaded(file, flag, computes=True), HALF_RUN[HALVES[flag]]
    assert half.model.manual_cast_dtype is None and half.model.get_dtype() == HALVES[flag]
    for name in ALL if flag == "bf16_unet" else SOME:
        neighbours = Neighbours()
        monkeypatch.setattr(token_matching, "nearest", neighbours)
        wanted = edited(whole, name)
        neighbours.given = iter(neighbours.kept)
        for found, expected in zip(edited(half, name), wanted, strict=True):
            assert off(found, expected) < bound, name
        assert next(neighbours.given, None) is None and bool(neighbours.other) == (name == "tokenflow")
    # TokenFlow's are float32's own but for few, and those are as near.
    assert 0 <= neighbours.farther < bound and torch.cat(neighbours.other).mean() < 2 * bound


@pytest.mark.parametrize("flag", HALVES)
def test_training_is_beside_float32(file, whole, flag, monkeypatch):
    """Stored narrow; computed in bfloat16 where that is stored, as on a card. What trains stays in float32."""
    if flag == "bf16_unet":
        monkeypatch.setattr(training, "training_dtype", lambda device: torch.bfloat16)
    recipe, stored = TuneRecipe(steps=2, learning_rate=1e-3), loaded(file, flag)
    losses = []
    for patcher in (whole, stored):
        with torch.inference_mode():
            for name in ("stam", "ffam") if flag == "bf16_unet" else ("temporal-attention", "simda"):
                patcher = BACKEND.attach(patcher, moved(build(name, BACKEND.sites(patcher), METHODS[name])))
            tuned = tune(BACKEND, patcher, clip(2), WORDS[0], recipe, progress=Quiet(), preview_every=0)
        assert all(w.dtype == torch.float32 and w.isfinite().all() for w in tuned.weights.tensors.values())
        losses.append(tuned.losses)
    assert losses[1] == pytest.approx(losses[0], rel=HALF_RUN[HALVES[flag]])


@pytest.mark.parametrize("flag", HALVES)
def test_a_blend_with_gather_swap_is_beside_float32(file, whole, flag):
    """VIA's way: the kept half is the inversion's own, in whatever is computed. Weak guidance, which grows differences
    less."""
    keep = torch.zeros(1, 1, 8, 8)
    keep[..., :4] = 1
    sigmas, results = BACKEND.schedule(whole).ddim_sigmas(2), []
    path = Trajectory([clip(FRAMES) * (1 + i) for i in range(3)], sigmas.flip(0))
    for patcher in (whole, loaded(file, flag, computes=True)):
        swapped = attached(patcher, "gather-swap", None)
        with torch.inference_mode():
            results.append(BACKEND.sample(swapped, WORDS[1], WORDS[0], 1.5, path[2, range(FRAMES)].float(), sigmas,
                                          Quiet(), sampler=BACKEND.blend_sampler("euler", BoundaryBlend(path, keep))))
    assert torch.equal(results[1][..., :4], path[0, range(FRAMES)][..., :4])
    assert 0 < off(results[1], results[0]) < HALF_RUN[HALVES[flag]]


@pytest.mark.parametrize("dtype", HALF_RUN, ids=str)
def test_flow_edit_is_beside_float32(dtype):
    mask = torch.zeros(1, 32, 48)
    mask[..., 16:] = 1
    results = []
    for kind in (torch.float32, dtype):
        base = copy.copy(narrow_flow.wan().model)
        # Its modules are the shared MODEL's, but for the network.
        base._modules = {**base._modules, "diffusion_model": copy.deepcopy(base.diffusion_model).to(kind)}
        base.diffusion_model.dtype = kind
        # As the host has it.
        base.diffusion_model.patch_embedding.float()
        patcher = comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))
        assert base.get_dtype() == kind and base.manual_cast_dtype is None
        latent = narrow_flow.latent(1, 16, 3, 4, 6)
        results.append(narrow_flow.flow_edited(patcher, latent, steps=3, n_max=2, n_min=1, mask=mask)[0])
    assert 0 < off(results[1], results[0]) < HALF_RUN[dtype]


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_aware_lora_is_beside_float32(kind, monkeypatch):
    """The velocity and the gradients of one step computed in bfloat16, as on a card; gradients arrive in float32."""
    monkeypatch.setattr(video, "training_dtype", lambda device: torch.bfloat16)
    given, patcher = videos.sample(kind), videos.model(kind)
    # HunyuanVideo's guidance is embedded as 1000 of it in the host's bfloat16, where its own 6 is 6.016: a fifth off.
    given.conditioning[0][1]["guidance"] = 4.0
    lora, bound, velocities, gradients, seen = moving_lora(patcher), HALF_RUN[torch.bfloat16], [], [], set()
    for precision in ("float32", "auto"):
        with BACKEND.video_training(patcher, [given], lora, ANY, precision) as view:
            layers = list(video_network.network_of(patcher).layers.values())
            watch = layers[0].register_forward_pre_hook(lambda layer, inputs: seen.add(inputs[0].dtype))
            velocity = view.predict_velocity(given.latent, torch.tensor(SIGMA), 0)
            (velocity - 1).square().mean().backward()
            watch.remove()
            velocities.append(velocity.detach().float())
            gradients.append({key: p.grad.clone() for key, p in view.parameters.items() if p.grad is not None})
    assert seen == {torch.float32, torch.bfloat16}
    assert 0 < off(velocities[1], velocities[0]) < bound
    assert all(g.dtype == torch.float32 and g.isfinite().all() for g in gradients[1].values())
    assert relative_error(gradients[1], gradients[0]) < bound
