"""The papers' metrics of an edited clip."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfy_api.latest import io

from .pictures import clip_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..vision.measured import PairFlow

CATEGORY = "SteadyEdit/video"
#: The host's own type, by name: hosts before it had one do not know the class.
OpticalFlow = io.Custom("OPTICAL_FLOW")
InterpolationModel = io.Custom("INTERP_MODEL")
#: Smallest side of frames that RIFE and FILM take: they halve it six times.
LEAST_INTERPOLATED = 64
ESTIMATED = "iterative Lucas-Kanade (scikit-image)"


def check_flow(optical_flow: Any) -> None:
    """Raise TypeError unless it is None or what the host's OpticalFlowLoader gives."""
    network = getattr(optical_flow, "model", None)
    if optical_flow is not None and not (callable(network) and hasattr(optical_flow, "load_device")):
        raise TypeError(f"optical_flow: expected a loaded flow network, but got {type(optical_flow).__name__}; "
                        "connect Load Optical Flow Model.")


def pair_flow(optical_flow: Any) -> tuple[PairFlow, str]:
    """A function of two frames, and its name: the host's network, put on its device here, or the estimator."""
    import torch

    from ..vision.flow import estimate_flow, raft_flow

    if optical_flow is None:
        return lambda first, second: estimate_flow(torch.stack([first, second]))[0], ESTIMATED
    import comfy.model_management

    comfy.model_management.load_model_gpu(optical_flow)
    network, device = optical_flow.model, optical_flow.load_device
    return (lambda first, second: raft_flow(network, first.to(device), second.to(device))), type(network).__name__


def check_interpolation(model: Any, frames: Tensor) -> None:
    """Raise one sentence unless it is None or what the host's FrameInterpolationModelLoader gives, and can run here."""
    if model is None:
        return
    if not (hasattr(getattr(model, "model", None), "extract_features") and hasattr(model, "load_device")):
        raise TypeError("interpolation_model: expected a loaded interpolation network, but got "
                        f"{type(model).__name__}; connect Load Frame Interpolation Model.")
    try:
        import comfy_extras.nodes_frame_interpolation  # noqa: F401
    except ImportError:
        raise ValueError("interpolation_model: needs a ComfyUI that has Run Frame Interpolation Model, which this one "
                         "has not; update it, or leave the input unconnected.") from None
    if min(frames.shape[1:3]) < LEAST_INTERPOLATED:
        raise ValueError(f"images: are {frames.shape[2]}x{frames.shape[1]}, too small for interpolation_model; use "
                         f"frames of at least {LEAST_INTERPOLATED}x{LEAST_INTERPOLATED} pixels.")


def predict_between(model: Any, frames: Tensor) -> Tensor:
    """Frames 1, 3, 5, ..., each from its two neighbours, by the host's own node: [(F - 1) // 2, H, W, 3]."""
    from comfy_extras.nodes_frame_interpolation import FrameInterpolate

    if len(frames) < 3:
        return frames[:0]
    return FrameInterpolate.execute(model, frames[::2], 2).result[0][1::2].to(frames)


class ClipMetrics(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditClipMetrics",
            display_name="Clip Metrics",
            category=CATEGORY,
            description="How consistent an edited clip is, by the papers' names: CLIP-Frame, CLIP-Text, Interpolation "
            "Error and PSNR, Warping Error, Input Similarity, CLIP Score, PSNR outside the mask. What is not connected "
            "is left out.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The edited clip."),
                io.Image.Input("source", optional=True, tooltip="The clip before its edit: its motion is taken, and "
                               "what stayed is compared with it."),
                io.Mask.Input("mask", optional=True, tooltip="Where the edit belongs: one, or one a frame. Needs "
                              "source."),
                io.String.Input("prompt", default="", multiline=True, optional=True,
                                tooltip="What the edited clip shows, for CLIP-Text."),
                io.Clip.Input("clip", optional=True, tooltip="Text encoder of a whole CLIP, for CLIP-Text."),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="Image encoder of the same CLIP."),
                OpticalFlow.Input("optical_flow", optional=True, tooltip="From Load Optical Flow Model (RAFT). "
                                  f"Unconnected: {ESTIMATED}."),
                io.Image.Input("first_frame", optional=True, tooltip="The edited first frame that the clip was made "
                               "from, for LoRA-Edit's CLIP Score. Needs clip_vision."),
                io.Combo.Input("warping_error", options=["pooled", "lai"], default="pooled", optional=True,
                               tooltip="pooled: the mean over all trusted points of the clip. lai: as Lai et al. "
                               "define it, without the points at motion boundaries, by pair of frames, then over the "
                               "pairs."),
                InterpolationModel.Input("interpolation_model", optional=True, tooltip="From Load Frame Interpolation "
                                         "Model (RIFE, FILM), in a ComfyUI that has it: predicts frames 1, 3, 5, ... "
                                         "from their neighbours, for Interpolation Error (network)."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="One value a line."),
                io.String.Output(display_name="json", tooltip="The same as JSON; null where a value means nothing."),
            ],
        )

    @classmethod
    def execute(cls, images, source=None, mask=None, prompt="", clip=None, clip_vision=None,
                optical_flow=None, first_frame=None, warping_error="pooled",
                interpolation_model=None) -> io.NodeOutput:
        import torch
        from comfy_api.latest import ui

        from .. import backends
        from ..vision.measured import Measured, along_flow, by_clip, by_network, flows_of
        from ..vision.metrics import psnr

        frames, source = clip_of(images), None if source is None else clip_of(source, "source")
        cut = [note for name, clip in (("images", frames), ("source", source)) if (note := _beyond(name, clip))]
        frames, source = frames.clamp(0, 1), None if source is None else source.clamp(0, 1)
        outside = _outside(frames, source, mask)
        if first_frame is not None and clip_vision is None:
            raise ValueError("clip_vision: is not connected, but first_frame is; CLIP Score needs it.")
        first_frame = None if first_frame is None else clip_of(first_frame, "first_frame")[:1]
        check_flow(optical_flow)
        check_interpolation(interpolation_model, frames)
        backend = backends.current()
        values: dict[str, Any] = {}
        text = _text(backend, clip, clip_vision, prompt)
        if clip_vision is not None:
            pictures = frames if source is None else torch.cat([frames, source])
            embeddings = backend.image_embeddings(clip_vision, pictures)
            if text is not None and embeddings.shape[-1] != text.shape[-1]:
                raise ValueError(f"clip_vision: has {embeddings.shape[-1]} dimensions, but clip {text.shape[-1]}; "
                                 "load the two encoders of one CLIP.")
            own, before = embeddings[: len(frames)], embeddings[len(frames) :]
            first = None if first_frame is None else backend.image_embeddings(clip_vision, first_frame)
            values |= by_clip(own, text, before if source is not None else None, first)
        # Only now: an image encoder that the host loads may push an earlier network off its device.
        pair, name = pair_flow(optical_flow)
        bar = backend.progress(max(1, len(frames) - 1), "flow")
        done = iter(range(1, len(frames)))
        flow, valid = flows_of(frames if source is None else source, pair, lambda: bar.update(next(done)))
        values |= along_flow(frames, flow, valid, warping_error)
        network = None
        if interpolation_model is not None:
            values |= by_network(frames, predict_between(interpolation_model, frames))
            network = f"{type(interpolation_model.model).__name__}, frames 1, 3, 5, ... from both neighbours"
        if outside is not None:
            values["PSNR outside the mask"] = psnr(frames, source, outside)
        of = f"{name}, of the {'edited clip' if source is None else 'source'}"
        trusted = f"{valid.float().mean():.0%}" if len(flow) else None
        found = Measured(values, {"flow": of, "interpolator (flow)": "that flow, from both neighbours",
                                  "interpolator (network)": network, "flow trusted at": trusted, "frames": len(frames),
                                  "cut to 0..1": " and ".join(cut) or None})  # fmt: skip
        return io.NodeOutput(found.lines(), found.json(), ui=ui.PreviewText(found.lines()))


def _beyond(name: str, clip: Tensor | None) -> str:
    """What of a clip lies outside of 0..1, where no screen shows it; "" if nothing does but rounding."""
    low, high = (0.0, 1.0) if clip is None else (float(value) for value in clip.aminmax())
    return f"{name} from {low:.4g} to {high:.4g}" if low < -1e-4 or high > 1 + 1e-4 else ""


def _text(backend: Any, clip: Any, clip_vision: Any, prompt: str) -> Tensor | None:
    """The prompt's embedding [D], None where no CLIP-Text is asked for."""
    if clip is None:
        return None
    if clip_vision is None:
        raise ValueError("clip_vision: is not connected, but clip is; CLIP-Text needs both.")
    if not prompt.strip():
        raise ValueError("prompt: is empty, but clip is connected; say what the edited clip shows, or unplug clip.")
    return backend.text_embedding(clip, prompt)[0]


def _outside(frames: Tensor, source: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Weights [F, H, W] of what was to stay.

    Raises:
        ValueError: clips or masks that do not fit together.
    """
    if source is not None and source.shape != frames.shape:
        sizes = [f"{len(c)} frames of {c.shape[2]}x{c.shape[1]}" for c in (source, frames)]
        raise ValueError(f"source: {sizes[0]}, but images are {sizes[1]}; give the same frames before their edit.")
    if mask is None:
        return None
    if source is None:
        raise ValueError("source: is not connected, but mask is; what stayed is compared with the source.")
    mask = mask if mask.ndim == 3 else mask[None]
    if mask.shape[1:] != frames.shape[1:3] or len(mask) not in (1, len(frames)):
        raise ValueError(f"mask: {len(mask)} of {mask.shape[2]}x{mask.shape[1]}, but images are {len(frames)} frames "
                         f"of {frames.shape[2]}x{frames.shape[1]}; make it from the same frames.")
    return (1 - mask.float()).expand(len(frames), -1, -1)


NODES = [ClipMetrics]
