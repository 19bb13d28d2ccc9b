"""``train lora_edit`` on a narrow folder of Wan's layout: alone, in two processes, sharded; and what it refuses."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from fractions import Fraction

import pytest
import torch
import wan_folder
from safetensors.torch import load_file
from steadyedit.methods.lora import factors
from steadyedit.standalone import parallel, processes
from steadyedit.standalone.cli import main
from steadyedit.toyworld import render, sample_scene
from steadyedit.video.write import write_clip
from tolerances import FLOAT32_STEP

pytestmark = pytest.mark.skipif("comfy_api" in sys.modules, reason="a host is loaded in this process")
STEPS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    wan_folder.write(folder / "weights")
    scene = sample_scene(3, "demo", frames=5, size=32)
    write_clip(folder / "clip.mp4", render(scene).frames, Fraction(8))
    mask = torch.zeros(5, 32, 32, 3)
    mask[:, 8:24, 8:24] = 1
    write_clip(folder / "mask.mp4", mask, Fraction(8))
    return folder


def arguments(place, output, *more):
    return ["train", "lora_edit", str(place / "weights"), "--video", str(place / "clip.mp4"), "--mask",
            str(place / "mask.mp4"), "--prompt", "a red ball", "--output", str(output), "--frames", "5",
            "--size", "32x32", "--rank", "2", "--steps", str(STEPS), "--width", "float32", "--batch", "2",
            "--learning-rate", "0.001", *more]  # fmt: skip


def forked(rank, port, kept, given, signs):
    """One of two processes, begun from here, so that libraries need not be loaded again."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": str(port), "STEADYEDIT_WEIGHTS": str(kept)}  # fmt: skip
    torch.set_num_threads(1)
    check = parallel.check_sharded

    def checked(network):
        check(network)
        (signs / f"sharded {rank}").touch()

    parallel.check_sharded = checked
    raise SystemExit(main(given))


def together(kept, given, signs) -> list[int]:
    context, port = multiprocessing.get_context("fork"), processes.free_port()
    running = [context.Process(target=forked, args=(rank, port, kept, given, signs)) for rank in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(200)
    return [process.exitcode for process in running]


@pytest.fixture(scope="module")
def alone(place):
    """The LoRA of one process, which learned two samples a step."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEADYEDIT_WEIGHTS", str(place / "kept alone"))
        assert main(arguments(place, place / "alone.safetensors")) == 0
    return load_file(place / "alone.safetensors")


def test_the_lora_has_the_nodes_keys_and_was_trained(alone):
    layers = factors(alone)
    # Self- and cross-attention's four and the feed-forward's two, by Wan's names, in two blocks.
    assert len(layers) == 20 and "blocks.0.self_attn.q" in layers and "blocks.1.ffn.2" in layers
    assert not any("img" in name or "add_" in name for name in layers)
    assert all(up.abs().max() > 0 and down.shape[0] == 2 for down, up in layers.values())


@pytest.mark.parametrize("more", [(), ("--shard",)], ids=["whole weights", "sharded weights"])
def test_two_processes_train_what_one_trains(place, alone, tmp_path, more):
    output = tmp_path / "two.safetensors"
    assert together(tmp_path / "kept", arguments(place, output, *more), tmp_path) == [0, 0]
    given = load_file(output)
    assert given.keys() == alone.keys()
    for name, value in alone.items():
        torch.testing.assert_close(given[name], value, atol=FLOAT32_STEP, rtol=0)
    # PyTorch's own sharded parameters in both processes, or whole ones, never something in between.
    assert {path.name for path in tmp_path.glob("sharded *")} == ({"sharded 0", "sharded 1"} if more else set())


def test_an_interrupted_training_goes_on_in_more_processes(place, alone, tmp_path, monkeypatch):
    from steadyedit.backends.diffusers.local import TerminalProgress

    update = TerminalProgress.update

    def stopped(self, value, *rest, **numbers):
        if value == 2:
            raise KeyboardInterrupt
        update(self, value, *rest, **numbers)

    monkeypatch.setenv("STEADYEDIT_WEIGHTS", str(tmp_path / "kept"))
    monkeypatch.setattr(TerminalProgress, "update", stopped)
    assert main(arguments(place, tmp_path / "lora.safetensors")) == 130
    monkeypatch.undo()
    (checkpoint,) = (tmp_path / "kept").rglob("*.checkpoint")
    before = checkpoint.stat().st_size
    assert before and together(tmp_path / "kept", arguments(place, tmp_path / "lora.safetensors"), tmp_path) == [0, 0]
    given = load_file(tmp_path / "lora.safetensors")
    for name, value in alone.items():
        torch.testing.assert_close(given[name], value, atol=FLOAT32_STEP, rtol=0)
    assert not checkpoint.exists()


def test_weights_that_are_not_sharded_are_told():
    with pytest.raises(RuntimeError, match="2 weights are not sharded, weight for one"):
        parallel.check_sharded(torch.nn.Linear(2, 2))


@pytest.mark.parametrize("changed, words", [
    (["--frames", "9"], "has 5 frames, but --frames asks for 9; set it to 5"),
    (["--frames", "4"], "--frames: expected 5 or more"),
    (["--size", "30x32"], "--size 30x32: expected WIDTHxHEIGHT"),
    (["--shard"], "--shard: parts the weights among processes; add --processes"),
    (["--output", "lora.ckpt"], "--output lora.ckpt: LoRAs are saved as .safetensors"),
    (["--mask", "none.png"], "--mask none.png: there is no such file"),
    (["--processes", "0"], "--processes: at least 1"),
])  # fmt: skip
def test_what_does_not_fit_is_one_sentence(place, tmp_path, capsys, changed, words):
    assert main(arguments(place, tmp_path / "x.safetensors", *changed)) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert words in said[-1] and not (tmp_path / "x.safetensors").exists()


def test_folders_that_are_none_of_wans_are_one_sentence(place, tmp_path, capsys):
    folder = tmp_path / "weights"
    for part in ("vae", "text_encoder", "tokenizer"):
        (folder / part).mkdir(parents=True)
    given = ["train", "lora_edit", str(folder), *arguments(place, tmp_path / "x.safetensors")[3:]]
    assert main(given) == 1 and "has no transformer folder" in capsys.readouterr().err
    (folder / "transformer").mkdir()
    for config, words in (({"_class_name": "FluxTransformer2DModel"}, "is a FluxTransformer2DModel, not Wan's"),
                          ({"_class_name": "WanTransformer3DModel", "image_dim": 8}, "there is no image_encoder")):
        (folder / "transformer" / "config.json").write_text(json.dumps(config))
        assert main(given) == 1 and words in capsys.readouterr().err
