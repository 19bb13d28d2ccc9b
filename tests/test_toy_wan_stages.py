"""The toy video model's second stage: matrices of low rank, and a deeper network."""

from __future__ import annotations

import pytest
import torch
from steadyedit.toyworld import models
from steadyedit.toyworld.models import wan
from steadyedit.toyworld.models.low_rank import LowRank, file_names, multiply_out
from steadyedit.toyworld.training.recipes import wan as first
from steadyedit.toyworld.training.recipes import wan_deeper
from tolerances import FLOAT32, NETWORK, RUN


def seen_of(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return (torch.randn(count, 36, 2, 4, 4, generator=generator), torch.full((count,), 500.0),
            torch.randn(count, 77, 96, generator=generator))


@pytest.fixture(scope="module")
def small():
    """A network of the first stage, every weight away from zero."""
    torch.manual_seed(3)
    network = wan.build(num_layers=first.BLOCKS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.03 * torch.randn_like(parameter))
    return network.eval().requires_grad_(False)


def test_a_low_rank_layer_is_the_nearest_of_its_rank():
    torch.manual_seed(4)
    linear, x = torch.nn.Linear(12, 10), torch.randn(5, 12)
    assert torch.allclose(LowRank(linear, 10)(x), linear(x), atol=FLOAT32)
    thin = LowRank(linear, 3)
    left = torch.linalg.svdvals(linear.weight.detach())[3:].square().sum().sqrt()
    assert torch.allclose((thin.up @ thin.down - linear.weight).norm(), left, atol=FLOAT32)


def test_deeper_goes_on_from_where_it_was(small):
    import copy

    thin = copy.deepcopy(small)
    wan_deeper.thin_text(thin)
    deeper, seen = wan_deeper.build(small.state_dict()).eval(), seen_of()
    assert len(deeper.blocks) == wan.CONFIG["num_layers"] == first.BLOCKS + len(wan_deeper.COPIED)
    with torch.no_grad():
        assert torch.allclose(deeper(*seen).sample, thin(*seen).sample, atol=FLOAT32)
        assert not torch.allclose(deeper(*seen).sample, small(*seen).sample, atol=RUN), "the text's matrices are thin"


def test_the_file_holds_factors_and_both_sides_read_products(small):
    deeper, seen = wan_deeper.build(small.state_dict()).eval(), seen_of()
    stored = models.to_file_keys("wan", deeper.state_dict())
    assert {"blocks.0.cross_attn.q.weight.up", "blocks.7.cross_attn.o.weight.down", "blocks.7.cross_attn.o.bias",
            "blocks.7.self_attn.q.weight"} <= stored.keys()
    plain = wan.build()
    native = multiply_out(stored)
    assert native.keys() == wan.to_wan(plain.state_dict()).keys(), "Wan's names and no others"
    plain.load_state_dict(models.from_file_keys("wan", native, plain), strict=True)
    with torch.no_grad():
        assert torch.allclose(plain.eval()(*seen).sample, deeper(*seen).sample, atol=NETWORK)


def test_names_without_factors_stay():
    state = {"a.weight": torch.ones(2), "proj.bias": torch.ones(1)}
    assert file_names(state) == state and multiply_out(state) == state


def test_stages_run_in_turn_each_at_its_pace_and_publish_what_loads(small, tmp_path, monkeypatch):
    """The later two, of one step each, on clips of two latents."""
    from steadyedit.toyworld.training import loop as training
    from steadyedit.toyworld.training.recipes import wan_calm

    record = models.config_of("wan")
    generator, paces = torch.Generator().manual_seed(5), []
    latents = torch.randn(first.CHUNK, 16, 2, 4, 4, generator=generator)
    chunk = {"latents": latents, "conditions": latents, "near": torch.zeros(first.CHUNK, 2, 4, 4, dtype=torch.bool),
             "text": torch.randn(first.CHUNK, 77, 96, generator=generator)}
    monkeypatch.setattr(training, "CACHE", tmp_path)
    monkeypatch.setattr(training.Run, "write_curve", lambda run: None)
    monkeypatch.setattr(first, "latent_chunk", lambda number, stamp, slower: paces.append(slower) or chunk)
    started = wan_deeper.build(small.state_dict())
    monkeypatch.setattr(wan_deeper, "build", lambda before=None: started)
    kept = {}
    monkeypatch.setattr(wan_calm, "publish", lambda name, state, made: kept.update(state=state, record=made))
    monkeypatch.setattr(first, "train", lambda **_: type("Run", (), {"ema": training.Ema({"wan": small}, 0.9)})())
    monkeypatch.setattr(wan_deeper.train, "__defaults__", (1, 2, 1e-3, 1, False))
    wan_calm.train(steps=1, batch=2, chunks=1)
    assert paces == [first.BRISK, wan_calm.SLOWER]
    assert (tmp_path / "wan_deeper.pt").exists() and (tmp_path / "wan_calm.pt").exists()
    assert kept["record"]["steps"] == 1 and kept["record"].keys() <= record.keys()
    plain = wan.build()
    native = multiply_out(models.to_file_keys("wan", kept["state"]))
    plain.load_state_dict(models.from_file_keys("wan", native, plain), strict=True)
