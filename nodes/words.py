"""What artists call the nodes and their settings: searched for, shown on widgets, or folded away.

Ids say what a setting is in its paper; they stay in graphs for good, so what is shown is kept here, or beside the node
as its ``WORDS``, so that a new method comes with its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Words:
    """Of one node.

    aliases: phrases under which the node search finds it beside its name.
    names: what a widget is called, by the id of its input.
    advanced: ids of inputs that the editor folds away; defaults serve nearly everybody.
    essentials: the shelf on the editor's list of essential nodes.
    """

    aliases: tuple[str, ...] = ()
    names: dict[str, str] = field(default_factory=dict)
    advanced: tuple[str, ...] = ()
    essentials: str | None = None


def words(*aliases: str, advanced: str = "", essentials: str | None = None, **names: str) -> Words:
    """``Words`` in short; ``advanced`` holds ids with spaces between."""
    return Words(aliases, names, tuple(advanced.split()), essentials)


#: Inputs of several nodes, called alike everywhere.
BY_INPUT = {
    "chunk": "frames at once",
    "learning_rate": "learning rate",
    "checkpoint_every": "steps between checkpoints",
    "reuse": "reuse finished training",
    "on_nothing": "if nothing is found",
    "pooling": "mask cells",
    "soft": "soft mask edge",
    "family": "model family",
    "keep": "what is kept",
    "fps": "frames per second",
    "delta": "Huber loss: linear from",
    "filename_prefix": "file name",
}

BY_NODE = {
    # Toy world.
    "SteadyEditToyModel": words("toy model", "example model", "test model", "no download", "demo checkpoint"),
    "SteadyEditToyEditor": words("toy editor", "example instruct pix2pix", "test editor"),
    "SteadyEditToyControlNet": words("toy controlnet", "example controlnet"),
    "SteadyEditToyCLIPVision": words("toy clip vision", "example clip score"),
    "SteadyEditToyWan": words("toy wan", "example image to video model", "test video model"),
    "SteadyEditToyClip": words("toy clip", "example video", "test clip", "sample footage", "demo video",
                               slower="times slower", advanced="split slower"),
    # Video.
    "SteadyEditLoadFrames": words("load video", "video to frames", "video frames", "import footage", "trim video",
                                  "cut clip", "read video", "video loader", start="first frame",
                                  count="number of frames", stride="take every ... frame", size="side in pixels",
                                  fit="how it fits", length="frames are",
                                  advanced="stride background"),
    "SteadyEditFitFrames": words("resize video", "scale image", "upscale image", "crop", "model size", "portrait video",
                                 "vertical video", "resize frames", fit="how it fits", turn="turn with the clip",
                                 multiple="sides are multiples of", advanced="multiple", essentials="Video Tools"),
    "SteadyEditPickFrame": words("image from batch", "one frame", "first frame", "last frame", "extract frame",
                                 "get frame", frame="number of the frame"),
    "SteadyEditLoadSequence": words("image sequence", "load exr", "exr sequence", "png sequence", "read frames",
                                    "import plate", "load plate", "frames from folder", "load image sequence",
                                    "open exr", name="sequence", first="first frame", count="number of frames",
                                    step="take every ... frame", handling="handles are", missing="missing frames",
                                    files="files hold", images="images become",
                                    advanced="step files unpremultiply layer", essentials="Video Tools"),
    "SteadyEditSaveSequence": words("image sequence", "save exr", "exr sequence", "png sequence", "write frames",
                                    "export frames", "render sequence", "16 bit png", "save image sequence",
                                    "export for nuke", name="file name", start_number="number of the first frame",
                                    step="from number to number", images_are="images are", files="files hold",
                                    existing="if it is there already", advanced="step files premultiply",
                                    essentials="Video Tools"),
    "SteadyEditStreamedEdit": words("long video", "long video edit", "any length", "batch", "meta batch", "video batch",
                                    "context window", "sliding window", "in chunks", "out of memory", "edit video",
                                    "video to video", "resume", "low memory", window="frames in a window",
                                    start="first frame", count="number of frames", stride="take every ... frame",
                                    size="side in pixels", fit="how it fits", image_condition="image the editor sees",
                                    start_from="noise is added to", mask_video="mask as a video",
                                    feather="feather in pixels", match_colour="match colours",
                                    hint_video="hints as a video", strength="strength of the hints",
                                    hint_start="hints from (part of the steps)",
                                    hint_end="hints until (part of the steps)",
                                    advanced="stride background image_condition start_from hint_start hint_end",
                                    essentials="Video Tools"),
    "SteadyEditStreamedInversion": words("invert long video", "streamed inversion", "video to noise", "unsample",
                                         "keep background", refinement="refinement per step", blend="how it blends",
                                         reading="what grows", ramp_steps="ramp in steps (0: all)",
                                         soft_mask="soft mask edge", advanced="refinement reading ramp_steps "
                                         "soft_mask"),
    "SteadyEditClipMetrics": words("measure video", "video quality", "measure flicker", "temporal consistency",
                                   "clip score", "compare videos", "psnr", "warp error", "edit quality"),
    "SteadyEditQualityScore": words("image quality", "deqa", "aesthetic score", "rate video", "video quality",
                                    "quality assessment", stride="take every ... frame", advanced="precision"),
    "SteadyEditCompare": words("before after", "before and after", "compare videos", "video compare", "wipe",
                               "side by side", "difference", "onion skin", "a b compare", "preview video",
                               essentials="Video Tools"),
    # Masks.
    "SteadyEditGroundingModel": words("grounding dino", "detect by text", "load detector", "groundingdino",
                                      advanced="precision"),
    "SteadyEditSAMModel": words("segment anything", "load sam", "sam 2", "sam model loader", "segmentation model",
                                advanced="precision"),
    "SteadyEditTextMask": words("segment", "segment by text", "mask by text", "mask by prompt", "select object",
                                "find object", "detect object", "rotoscope", "roto", "auto mask", "grounded sam",
                                "mask object",
                                text="object in words", box_threshold="how sure: object",
                                text_threshold="how sure: words", every="look at every ... frame",
                                count="objects at most", advanced="text_threshold chunk count"),
    "SteadyEditPointMask": words("click", "click to segment", "click object", "segment", "points editor", "pick object",
                                 "select object", "rotoscope", "roto", "interactive mask", "sam points", "mask object",
                                 frame="frame number", positive="points on the object", negative="points beside it"),
    "SteadyEditTrackMask": words("track", "track object", "follow object", "propagate mask", "mask tracking",
                                 "video mask", "video segmentation", "rotoscope", "roto", "mask through video",
                                 frames="frames of the mask", hidden_below="hidden below confidence",
                                 advanced="hidden_below method"),
    "SteadyEditMaskRefine": words("clean mask", "grow mask", "expand mask", "feather mask", "blur mask", "shrink mask",
                                  "smooth mask", "fill holes", "matte cleanup", "dilate", "erode",
                                  specks="drop specks below", holes="fill holes below", smooth="smooth the outline",
                                  grow="grow by pixels", feather="feather in pixels"),
    "SteadyEditCaption": words("describe video", "caption video", "image to text", "auto prompt", "interrogate",
                               "what is in the video", frames="frames looked at", prefix="words in front",
                               advanced="precision"),
    "SteadyEditDescribeRegion": words("what to edit", "region from instruction", "edit region by text",
                                      "instruction to mask", every="look at every ... frame", advanced="precision"),
    # Attach.
    "SteadyEditSTAM": words("ei2", "video edit", "edit video", "temporal attention", "consistent frames",
                            "edit video by prompt", "video to video"),
    "SteadyEditFFAM": words("ei2", "video edit", "edit video", "consistent frames", "flicker", "frame attention",
                            ratio="coarse by", blocks="in which blocks", advanced="blocks"),
    "SteadyEditSparseCausal": words("tune a video", "sparse causal", "video edit", "consistent frames"),
    "SteadyEditTemporalAttention": words("tune a video", "temporal attention", "motion module", "video edit"),
    "SteadyEditGatherSwap": words("via", "video edit", "edit video", "consistent", "consistent video", "flicker",
                                  "change background", "long video edit", "same edit in every frame", "style transfer",
                                  "video style transfer", "instruction video edit", group="frames in the group",
                                  self_attention="in self-attention", cross_attention="in cross-attention",
                                  start="from (part of the steps)", end="until (part of the steps)",
                                  layers="in which layers", group_frames="frames of the group",
                                  advanced="self_attention cross_attention layers chunk group_frames start"),
    "SteadyEditRAVE": words("rave", "video edit", "edit video", "consistent", "consistent video", "style transfer",
                            "video style transfer", "restyle video", "zero shot video", "flicker", "no training",
                            grid="frames per side of a grid", shuffle="shuffle each step", chunk="grids at once",
                            advanced="shuffle chunk"),
    "SteadyEditPromptToPrompt": words("prompt to prompt", "p2p", "word swap", "change a word", "attention control",
                                      "cross attention", "reweight words", "video edit", "edit by words", "no training",
                                      source="what the clip shows", target="what it shall show", edit="kind of change",
                                      cross_steps="words keep their places until (part of the steps)",
                                      self_steps="layout stays until (part of the steps)",
                                      self_size="largest layer that keeps the layout",
                                      weights="stronger or weaker words", blend_source="only where these words were",
                                      blend_target="only where these words are",
                                      threshold="how strong a word must be there",
                                      blend_start="keep the rest from (part of the steps)",
                                      advanced="self_size threshold blend_start chunk"),
    # VIA.
    "SteadyEditRootCandidates": words("edit first frame", "edit one frame", "edit variations", "keyframe edit",
                                      "instruct pix2pix frame", frame="frame number", count="number of tries",
                                      text_guidance="guidance by text", image_guidance="guidance by image"),
    "SteadyEditPickRoot": words("choose best edit", "pick frame", "best of", "select variation",
                                index="which (0: best score)", preservation="weight of what stays"),
    "SteadyEditTestTimeAdapt": words("learn one edit", "train on one frame", "adapt editor", "lora from one image",
                                     "video edit", batch="pictures per step", variants="number of variants",
                                     advanced="rank batch variants dropout reuse"),
    "SteadyEditPerFrameConditioning": words("prompt per frame", "prompt schedule", "prompt travel", "one line a frame",
                                            spread="spread over the clip"),
    "SteadyEditEditorConditioning": words("qwen image edit", "qwen edit video", "flux kontext", "kontext video",
                                          "flux 2", "klein", "reference latent", "text encode qwen image edit",
                                          "instruction video edit", "edit video", "per frame reference",
                                          reference_size="size of references", picture="second picture",
                                          advanced="reference_size"),
    # Tuning.
    "SteadyEditOneShotTune": words("tune a video", "train on video", "fine tune on clip", "video edit", "learn motion",
                                   "one shot", tune_queries="also train queries", advanced="tune_queries reuse"),
    "SteadyEditNormTune": words("dape", "train norms", "fine tune on clip", "consistent", "consistent video",
                                "flicker", resnet="residual blocks", attention="attention blocks", final="last norm",
                                gamma0="share of the input", loss="loss function",
                                advanced="resnet attention final gamma0 loss delta checkpoint_every reuse"),
    "SteadyEditVisualAdapterTrain": words("dape", "train adapter", "fine tune on clip", "consistent video",
                                          positions="attention stages (1-7)", placement="placed after",
                                          bottleneck="adapter channels", kernel="adapter kernel size",
                                          joint="train norms too", loss="loss function",
                                          advanced="placement bottleneck kernel joint loss delta checkpoint_every "
                                          "reuse"),
    "SteadyEditApplyNormTune": words("dape", "apply tuned norms", "norm strength"),
    "SteadyEditApplyVisualAdapter": words("dape", "apply adapter", "adapter strength"),
    "SteadyEditSaveTuned": words("save training", "save tuned", "save weights"),
    "SteadyEditSaveLoRA": words("save lora", "diffusers lora", "export lora", "kohya", names="whose layer names"),
    "SteadyEditLoadTuned": words("load training", "load tuned", "load weights", name="file"),
    # Sampling.
    "SteadyEditDDIMInversion": words("invert video", "inversion", "video to noise", "unsample", "unsampler",
                                     "reverse sampling", "edit video", "keep motion",
                                     refinement="refinement per step", advanced="refinement"),
    "SteadyEditFlowEdit": words("flow edit", "edit by words", "text edit video", "inversion free", "edit wan video",
                                "edit video", "prompt to prompt", "unsample", "video to video", "rf inversion",
                                source_guidance="guidance of source", target_guidance="guidance of target",
                                n_max="steps of the edit", n_min="last steps: target alone",
                                n_avg="draws of noise a step", shared_noise="same noise for all frames",
                                soft_mask="soft mask edge", advanced="n_min n_avg shared_noise soft_mask"),
    "SteadyEditSourcePath": words("flow inversion", "rf inversion", "invert wan", "invert flux", "inversion",
                                  "unsample", "video to noise", "keep background", way="how the path is found",
                                  shared_noise="same noise for all frames", advanced="shared_noise"),
    "SteadyEditBoundaryBlend": words("edit inside mask", "local edit", "inpaint video", "video inpaint",
                                     "blend latents", "mask sampler", "keep background", "preserve background",
                                     blend="how it blends", reading="what grows",
                                     ramp_steps="ramp in steps (0: all)", soft_mask="soft mask edge",
                                     advanced="reading ramp_steps soft_mask blend"),
    "SteadyEditComposite": words("paste back", "blend edit", "keep background", "preserve background",
                                 "overlay edit", "masked composite", "comp", "inpaint video",
                                 feather="feather in pixels", grow="grow by pixels", match_colour="match colours"),
    # Plate.
    "SteadyEditCropToMask": words("crop and stitch", "inpaint crop", "crop to object", "crop around mask", "mask crop",
                                  "stabilized crop", "zoom to mask", "edit 4k video", "high resolution video edit",
                                  "crop video", aspect="shape of the box", padding="padding (part of the object)",
                                  motion="box", smooth="smoothed over frames", multiple="sides are multiples of",
                                  advanced="multiple", essentials="Video Tools"),
    "SteadyEditColorMatch": words("match colours", "match colors", "colour match", "colour correct", "color correction",
                                  "color transfer", "colour drift", "fix color shift", "grade match", "white balance",
                                  "histogram match", span="measured over", smooth="drift: over frames",
                                  region="with a mask", advanced="smooth", essentials="Video Tools"),
    "SteadyEditStitch": words("crop and stitch", "inpaint stitch", "uncrop", "paste back", "paste crop", "put back",
                              "stitch crop", "edit 4k video", feather="feather in pixels",
                              match_colour="match colours", essentials="Video Tools"),
    # LoRA-Edit.
    "SteadyEditBoxMask": words("mask to box", "bounding box mask", "box around object", shape="boxes or silhouettes",
                               growth="boxes: grow by (part)", smallest="boxes: smallest area in pixels",
                               pixels="silhouettes: grow by pixels"),
    "SteadyEditMaskCondition": words("edit from first frame", "first frame edit", "propagate first frame",
                                     "inpaint video", "video inpaint", "image to video edit", "video edit",
                                     "edit video", "follow edited frame",
                                     advanced="family pooling soft"),
    "SteadyEditMaskSample": words("training clip", "lora training data", "dataset from video",
                                  clip_length="frames per clip (0: whole)", repeats="times per round",
                                  advanced="family pooling soft repeats"),
    "SteadyEditFrameSample": words("training frame", "reference frame", "edited later frame",
                                   "lora training data", repeats="times per round", advanced="family pooling soft"),
    "SteadyEditMaskLoRATrain": words("lora video", "train lora", "video lora", "train lora on video", "lora trainer",
                                     "video edit", "edit video", "first frame edit", targets="trained layers",
                                     noise_range="noise levels", blocks_on_device="blocks kept on the GPU",
                                     sample_every="sample a clip every ... steps",
                                     take_interrupted="take an interrupted training",
                                     memory="fit into a card of",
                                     advanced="targets noise_range precision blocks_on_device reuse sample_every "
                                              "take_interrupted"),
}  # fmt: skip
