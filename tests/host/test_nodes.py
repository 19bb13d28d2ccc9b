"""The nodes as the host calls them: their schemas, the pipeline from end to end, and bad input."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from comfy_api.latest import io
from steadyedit import backends, nodes
from tolerances import EIGHT_BITS
from toys import BACKEND, assert_untouched, clip, model, text, traces, weights

ROOT = Path(nodes.__file__).parents[1]
NODES = {node.GET_SCHEMA().node_id: node for node in nodes.node_list()}
IDS = {
    "SteadyEditToyModel", "SteadyEditToyEditor", "SteadyEditToyClip", "SteadyEditDDIMInversion", "SteadyEditSTAM",
    "SteadyEditFFAM", "SteadyEditSparseCausal", "SteadyEditTemporalAttention", "SteadyEditOneShotTune",
    "SteadyEditSimDA",
    "SteadyEditSaveTuned", "SteadyEditSaveLoRA", "SteadyEditLoadTuned", "SteadyEditLoadFrames",
    "SteadyEditGatherSwap", "SteadyEditFitFrames", "SteadyEditPickFrame", "SteadyEditToyFlowEditor",
    "SteadyEditRootCandidates", "SteadyEditPickRoot", "SteadyEditTestTimeAdapt", "SteadyEditPerFrameConditioning",
    "SteadyEditToyCLIPVision", "SteadyEditBoundaryBlend", "SteadyEditComposite", "SteadyEditNormTune",
    "SteadyEditToyControlNet", "SteadyEditRAVE", "SteadyEditTokenFlow", "SteadyEditPromptToPrompt",
    "SteadyEditApproximateWindows", "SteadyEditEditorConditioning",
    "SteadyEditNullTextInversion",
    "SteadyEditVisualAdapterTrain", "SteadyEditApplyNormTune", "SteadyEditApplyVisualAdapter",
    "SteadyEditGroundingModel", "SteadyEditSAMModel", "SteadyEditTextMask", "SteadyEditPointMask",
    "SteadyEditBoxMask", "SteadyEditMaskCondition", "SteadyEditMaskSample", "SteadyEditFrameSample",
    "SteadyEditMaskWindows", "SteadyEditMaskLoRATrain", "SteadyEditToyWan",
    "SteadyEditTrackMask", "SteadyEditMaskRefine", "SteadyEditCaption", "SteadyEditDescribeRegion",
    "SteadyEditClipMetrics", "SteadyEditQualityScore",
    "SteadyEditCropToMask", "SteadyEditStitch", "SteadyEditCompare", "SteadyEditColorMatch",
    "SteadyEditLoadSequence", "SteadyEditSaveSequence",
    "SteadyEditStreamedInversion", "SteadyEditSourcePath", "SteadyEditStreamedEdit", "SteadyEditFlowEdit",
}  # fmt: skip


def run(node_id, **inputs):
    """Call a node as the host does: a locked copy of its class, in inference mode, every required input given."""
    from comfy_api.internal import make_locked_method_func

    schema = NODES[node_id].GET_SCHEMA()
    required = {i.id for i in schema.inputs if not i.optional}
    defaults = {i.id: i.default for i in schema.inputs if getattr(i, "default", None) is not None and not i.optional}
    given = defaults | inputs
    assert required <= given.keys()
    node = NODES[node_id]
    execute = make_locked_method_func(node, "EXECUTE_NORMALIZED", node.PREPARE_CLASS_CLONE(None))
    with torch.inference_mode():
        return execute(**given)


def latent(**changes):
    return {"samples": clip(**changes)}


def test_the_ids_are_the_promised_ones():
    assert set(NODES) == IDS


@pytest.mark.parametrize("node_id", sorted(IDS))
def test_every_node_explains_itself(node_id):
    schema = NODES[node_id].GET_SCHEMA()
    assert schema.description and schema.display_name and schema.category.startswith("SteadyEdit/")
    for part in (*schema.inputs, *schema.outputs):
        assert part.tooltip, part.id
    page = (ROOT / "web" / "docs" / f"{node_id}.md").read_text()
    assert page.startswith("# ")
    for part in schema.inputs:
        # Sockets explain themselves; whatever can be set is explained on the page.
        if part.get_io_type() in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
            assert f"**{part.id}**" in page, f"{node_id}: the help page leaves out {part.id}"


def test_tune_invert_save_load(weights_folder):
    """The pipeline of the toy graph, short; the MODEL at its start is untouched, and nothing is trained twice."""
    plain = model()
    before, marks = weights(plain), traces(plain)
    prepared = run("SteadyEditFFAM", model=run("SteadyEditSTAM", model=plain)[0])[0]
    settings = {"model": prepared, "latent": latent(), "conditioning": text(), "steps": 3, "learning_rate": 1e-3}
    tuned, tuned_weights, losses = run("SteadyEditOneShotTune", **settings).args
    assert len(losses["loss"]) == 3
    assert_untouched(plain, before, marks)

    noise, sigmas = run("SteadyEditDDIMInversion", model=tuned, conditioning=text(2), latent=latent(), steps=4).args
    assert noise["steadyedit_trajectory"].shape == (5, *clip().shape)
    assert torch.equal(noise["steadyedit_sigmas"], sigmas.flip(0)) and sigmas[-1] == 0
    assert torch.allclose(noise["steadyedit_trajectory"][0].float(), clip(), atol=EIGHT_BITS)

    again, _, same = run("SteadyEditOneShotTune", **settings).args
    assert same["loss"] == losses["loss"]
    assert list(weights_folder.glob("cache/*.safetensors")) and not list(weights_folder.glob("cache/*.checkpoint"))

    run("SteadyEditSaveTuned", weights=tuned_weights, filename_prefix="films/first")
    assert (weights_folder / "films" / "first_00001.safetensors").is_file()
    options = next(i for i in NODES["SteadyEditLoadTuned"].GET_SCHEMA().inputs if i.id == "name").options
    assert options == ["films/first_00001.safetensors"]
    loaded, _ = run("SteadyEditLoadTuned", model=plain, name=options[0]).args
    path = [run("SteadyEditDDIMInversion", model=m, conditioning=text(2), latent=latent(), steps=2)[0]["samples"]
            for m in (tuned, loaded, again)]  # fmt: skip
    assert torch.equal(path[0], path[1]) and torch.equal(path[0], path[2])
    plain.unpatch_model()
    assert_untouched(plain, before, marks)


# The host asks at every layer: 1 is the first layer of all, 400 lies inside the second forward.
@pytest.mark.parametrize("asked", [1, 400])
def test_cancelled_training_goes_on_where_it_stopped(asked, monkeypatch, weights_folder):
    """At once, inside a step, with a checkpoint from the first step on; continued it equals the uninterrupted run."""
    import comfy.model_management

    interrupt = comfy.model_management.InterruptProcessingException
    prepared = run("SteadyEditSTAM", model=model())[0]
    before, marks = weights(prepared), traces(prepared)
    settings = {"model": prepared, "latent": latent(), "conditioning": text(), "steps": 4, "learning_rate": 1e-3}
    whole = run("SteadyEditOneShotTune", **settings, reuse=False).args

    calls = []

    def cancelled():
        calls.append(1)
        if len(calls) == asked:
            raise interrupt

    monkeypatch.setattr(comfy.model_management, "throw_exception_if_processing_interrupted", cancelled)
    with pytest.raises(interrupt):
        run("SteadyEditOneShotTune", **settings)
    assert_untouched(prepared, before, marks)
    assert bool(list(weights_folder.glob("cache/*.checkpoint"))) == (asked > 1)  # nothing to go on from before a step
    monkeypatch.undo()
    monkeypatch.setattr(type(BACKEND), "weights_folder", lambda self: weights_folder)
    rest = run("SteadyEditOneShotTune", **settings).args
    assert rest[2]["loss"] == whole[2]["loss"]
    for key, tensor in whole[1].tensors.items():
        assert torch.equal(rest[1].tensors[key], tensor)


def not_finite():
    samples = clip()
    samples[1, 0, 0, 0] = float("nan")
    return {"samples": samples}


def no_unet():
    import comfy.model_patcher

    base = torch.nn.Module()
    base.diffusion_model = torch.nn.Linear(1, 1)
    return comfy.model_patcher.ModelPatcher(base, torch.device("cpu"), torch.device("cpu"))


REFUSED = {
    "NaN, tuning": ("SteadyEditOneShotTune", lambda: {"model": run("SteadyEditSTAM", model=model())[0],
                    "latent": not_finite(), "conditioning": text()}, ValueError, "latent: .*NaN"),
    "NaN, inversion": ("SteadyEditDDIMInversion", lambda: {"model": model(), "latent": not_finite(),
                       "conditioning": text()}, ValueError, "latent: .*NaN"),
    "conditions": ("SteadyEditOneShotTune", lambda: {"model": run("SteadyEditSTAM", model=model())[0],
                   "latent": latent(), "conditioning": text(prompts=2)}, ValueError, "conditioning: holds 2 prompts"),
    "ratio": ("SteadyEditDDIMInversion", lambda: {"model": run("SteadyEditFFAM", model=model(), ratio=16)[0],
              "latent": latent(), "conditioning": text()}, ValueError, "ratio: 16 is larger"),
    "no U-Net": ("SteadyEditSTAM", lambda: {"model": no_unet()}, TypeError, "model: .* but got a Linear"),
    "no MODEL": ("SteadyEditFFAM", lambda: {"model": object()}, TypeError, "model: expected a MODEL"),
    "nothing attached": ("SteadyEditOneShotTune", lambda: {"model": model(), "latent": latent(),
                         "conditioning": text()}, ValueError, "model: has nothing attached"),
    "odd size": ("SteadyEditToyClip", lambda: {"size": 100}, ValueError, "size: 100 .* use 96 or 104"),
    "outside the folder": ("SteadyEditSaveTuned", lambda: {"weights": None, "filename_prefix": "../../x"}, ValueError,
                           "filename_prefix: .* leaves the folder"),
    "empty conditioning": ("SteadyEditDDIMInversion", lambda: {"model": model(), "latent": latent(),
                           "conditioning": []}, ValueError, "conditioning: is empty"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_one_sentence(case):
    node_id, inputs, error, message = REFUSED[case]
    with pytest.raises(error, match=message) as caught:
        run(node_id, **inputs())
    sentence = str(caught.value)
    assert "\n" not in sentence and len(re.findall(r"\. [A-Z]", sentence)) <= 1


def test_weights_of_another_base_are_refused(weights_folder):
    prepared = run("SteadyEditSTAM", model=model())[0]
    tuned = run("SteadyEditOneShotTune", model=prepared, latent=latent(), conditioning=text(), steps=1, reuse=False)
    run("SteadyEditSaveTuned", weights=tuned[1])
    other = model()
    key = "diffusion_model." + BACKEND.sites(other)[0].path + ".attn1.to_q.weight"
    other.add_patches({key: ("diff", (torch.ones(64, 64),))})
    with pytest.raises(ValueError, match="tuned on another base model"):
        run("SteadyEditLoadTuned", model=other, name="tuned_00001.safetensors")


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_is_told(monkeypatch, kind):
    def exhausted(*args, **kwargs):
        raise kind("CUDA out of memory")

    monkeypatch.setattr(type(BACKEND), "invert", exhausted)
    with pytest.raises(MemoryError, match="memory ran out while inverting 3 frames of 64x64"):
        run("SteadyEditDDIMInversion", model=model(), latent=latent(), conditioning=text())


def test_the_toy_clip_and_its_truth():
    images, caption, prompt, mask, truth, fps, instruction = run("SteadyEditToyClip", frames=3, size=64).args
    assert images.shape == truth.shape == (3, 64, 64, 3) and mask.shape == (3, 64, 64) and fps == 8.0
    assert caption != prompt and not torch.equal(images, truth)
    assert instruction.split()[0] in {"make", "turn", "replace", "in", "at", "by"}


def test_frames_of_a_made_video_and_of_a_file(tmp_path):
    from fractions import Fraction

    from comfy_api.latest import InputImpl, Types
    from steadyedit.video.write import write_clip

    frames = torch.rand(10, 40, 48, 3)
    write_clip(tmp_path / "clip.mp4", frames, Fraction(10))
    made = InputImpl.VideoFromComponents(Types.VideoComponents(images=frames, audio=None, frame_rate=Fraction(10)))
    for video in (made, InputImpl.VideoFromFile(str(tmp_path / "clip.mp4"))):
        images, audio, fps, info = run("SteadyEditLoadFrames", video=video, start=1, count=3, stride=2, size=32).args
        assert images.shape == (3, 32, 32, 3) and audio is None and fps == 5.0
        assert info.startswith("3 frames of 32x32 at 5 a second")
        whole = run("SteadyEditLoadFrames", video=video, count=0, size=0)[0]
        assert whole.shape == (10, 40, 48, 3)
    assert torch.equal(run("SteadyEditLoadFrames", video=made, count=0, size=0)[0], frames)


def test_the_current_backend_is_the_hosts():
    assert isinstance(backends.current(), type(BACKEND))
    assert issubclass(NODES["SteadyEditSTAM"], io.ComfyNode)
