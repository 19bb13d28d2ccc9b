"""The trainings' shared parts: resuming equals never having stopped, and broken losses stop a run."""

from __future__ import annotations

import pytest
import torch
from steadyedit.toyworld import models
from steadyedit.toyworld.training import loop as training
from steadyedit.toyworld.training import train
from steadyedit.toyworld.training.muon import Muon, orthogonalise
from tolerances import FLOAT64_CHAIN
from torch import nn


def steps_of(run: training.Run, until: int) -> None:
    while run.step < until:
        x = torch.randn(32, 3, generator=run.generator)
        run.advance((run.modules["net"](x) - x.sum(1, keepdim=True)).pow(2).mean())


def start(steps: int = 60) -> training.Run:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))
    return training.Run("tiny", {"net": net}, steps, 3e-2, seed=1, ema=0.9, warmup=5, save_minutes=60)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CACHE", tmp_path)
    monkeypatch.setattr(models, "WEIGHTS", tmp_path)
    return tmp_path


def test_resumed_equals_uninterrupted(cache):
    whole = start()
    steps_of(whole, 59)
    part = start()
    steps_of(part, 25)
    part.save()
    resumed = start()
    assert resumed.step == 25
    steps_of(resumed, 59)
    for one, other in zip(whole.parameters, resumed.parameters):
        assert torch.equal(one, other)
    assert whole.ema.average["net"]["0.weight"].equal(resumed.ema.average["net"]["0.weight"])
    assert whole.curve == resumed.curve
    assert whole.curve[-1][1] < whole.curve[0][1]


def test_a_broken_loss_stops_the_run(cache):
    run = start()
    with pytest.raises(training.Stopped, match="lower the learning rate"):
        run.advance(run.modules["net"](torch.full((1, 3), torch.nan)).mean())


def test_publishing_writes_hash_and_curve(cache):
    run = start()
    steps_of(run, 60)
    run.write_curve()
    training.publish("tiny", run.ema.average["net"], {"seed": 1})
    training.add_bars("tiny", {"loss": 0.5})
    record = models.config_of("tiny")
    assert record["sha256"] == models.sha256_of(cache / "tiny.safetensors") and record["bars"] == {"loss": 0.5}
    assert (cache / "tiny_curve.csv").read_text().startswith("step,loss") and (cache / "tiny_curve.png").exists()


@pytest.mark.parametrize("shape", [(4, 4), (3, 17), (20, 5)])
def test_orthogonalised_updates_have_even_singular_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    skewed = u @ torch.diag(values / values * torch.logspace(0, -1.5, len(values), dtype=torch.float64)) @ v
    answer = u.T @ orthogonalise(skewed) @ v.T
    after = answer.diagonal()
    assert torch.allclose(answer, torch.diag(after), atol=FLOAT64_CHAIN), "the singular vectors stay"
    assert after.max() < 2.2 and after.min() > 0.3, "32 times apart before"


def test_muon_leaves_vectors_to_adam():
    net = nn.Linear(3, 2)
    optimiser = Muon(net.parameters(), lr=0.1)
    net(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    assert "second" in optimiser.state[net.bias] and "second" not in optimiser.state[net.weight]


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="choose one of"):
        train.main("everything")


def test_recipes_of_several_stages_run_in_turn(monkeypatch):
    ran = []
    monkeypatch.setattr(train, "import_module", lambda name, _: type(
        "Recipe", (), {"train": staticmethod(lambda **options: ran.append((name, options)))}))
    train.main("wan_vae", steps=3)
    assert ran == [(".recipes.wan_vae", {}), (".recipes.wan_vae_settle", {"steps": 3})]
    train.main("vae")
    assert ran[2:] == [(".recipes.vae", {})]
