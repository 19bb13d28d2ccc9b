"""The nodes, one file per stage: a schema, the unpacking of its inputs, one call. No maths."""

from __future__ import annotations

from typing import Any


def node_list() -> list[type]:
    """All node classes, in the order of the pipeline. Needs ``comfy_api`` (the host's, or a stand-in)."""
    from . import (
        adaptation,
        approximate_windows,
        attach,
        blend,
        captions,
        colour_match,
        compare,
        dape,
        dape_apply,
        editor_conditioning,
        fit_frames,
        flow_edit,
        gather_swap,
        inversion,
        lora_edit,
        lora_edit_samples,
        lora_edit_train,
        lora_edit_windows,
        metrics,
        null_text,
        plate,
        point_mask,
        prompt_to_prompt,
        quality,
        rave,
        root,
        save_lora,
        sequence,
        source_path,
        streamed_edit,
        text_mask,
        tokenflow,
        toy,
        toy_clip,
        track_mask,
        tuning,
        video,
        vision_models,
        weights,
    )  # fmt: skip
    from .checked import checked
    from .schema import with_words

    modules = (toy, toy_clip, video, fit_frames, sequence, vision_models, text_mask, point_mask, track_mask, captions,
               attach, gather_swap, rave, tokenflow, approximate_windows, prompt_to_prompt, root, adaptation,
               editor_conditioning, tuning, dape, dape_apply, weights, save_lora, inversion, null_text, flow_edit,
               source_path, blend, lora_edit, lora_edit_samples, lora_edit_train, lora_edit_windows, plate,
               colour_match, compare, metrics, quality, streamed_edit)
    return [checked(with_words(node)) for module in modules for node in module.NODES]


def extension() -> Any:
    """The host's view of this pack."""
    from comfy_api.latest import ComfyExtension

    class SteadyEditExtension(ComfyExtension):
        async def get_node_list(self) -> list[type]:
            return node_list()

    return SteadyEditExtension()
