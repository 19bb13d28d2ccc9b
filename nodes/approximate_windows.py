"""Long clips for methods that see the whole one, as a change of the MODEL that every sampler takes."""

from __future__ import annotations

from comfy_api.latest import io

from .attach import CATEGORY, attached, model_input, model_output


class ApproximateWindows(io.ComfyNode):
    METHOD = "approximate-windows"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditApproximateWindows",
            display_name="Approximate Windows: long clips for EI2, Tune-A-Video, TokenFlow",
            category=CATEGORY,
            description="Cuts a clip that is too long for one call of the model into overlapping windows, for methods "
            "in which every frame sees the whole clip. Every window also sees a few frames that all share, and the "
            "windows are blended at every step. This is an approximation: frames of different windows no longer see "
            "each other. A clip that fits in one window is edited exactly as without this node.",
            inputs=[
                model_input("A model with STAM, FFAM, Tune-A-Video's attentions, TokenFlow or RAVE on it, tuned or "
                            "not; before or behind this node. It is not changed."),
                io.Int.Input("length", default=16, min=1, max=4096, tooltip="Frames of a window. As many as memory "
                             "allows in one call; a method that was tuned on the clip likes the number it was tuned "
                             "on."),
                io.Int.Input("overlap", default=4, min=0, max=4095, tooltip="Frames that neighbouring windows share at "
                             "the least, over which one fades into the next. 0 leaves hard joins."),
                io.Combo.Input("anchors", options=["first", "keyframes", "none"], default="first", tooltip="Frames "
                               "that every window sees beside its own: the first of the clip, some evenly spread over "
                               "it, or none."),
                io.Int.Input("keyframes", default=4, min=1, max=256, tooltip="With keyframes: how many. They make "
                             "every window that much longer."),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def execute(cls, model, length, overlap, anchors, keyframes) -> io.NodeOutput:
        return attached(model, cls.METHOD, length=length, overlap=overlap, anchors=anchors, keyframes=keyframes)


NODES = [ApproximateWindows]
