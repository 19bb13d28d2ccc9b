"""Prompt-to-Prompt, as a change of the MODEL that every sampler takes."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .attach import CATEGORY, model_input, model_output, with_method


class PromptToPrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyEditPromptToPrompt",
            display_name="Prompt-to-Prompt: change words, keep the layout",
            category=CATEGORY,
            description="Two prompts, before and after. While the clip is sampled under the new one, its source is "
            "sampled beside it under the old one, and the words that both share keep their places. Words can be made "
            "stronger or weaker, and all that lies outside of some words kept as it was.",
            inputs=[
                model_input(),
                io.Clip.Input("clip", tooltip="The text encoder of the model."),
                io.String.Input("source", multiline=True, tooltip="What the clip shows, in plain words."),
                io.String.Input("target", multiline=True, tooltip="The same words with the changed ones in place, such "
                                "as a purple fish instead of a green fish; or with words more."),
                io.Combo.Input("edit", options=["auto", "swap", "refine"], default="auto", tooltip="swap: word for "
                               "word, each new word takes the old one's place. refine: words were added, and find "
                               "their own. auto: swap where both prompts have as many words."),
                io.Float.Input("cross_steps", default=0.8, min=0.0, max=1.0, step=0.05, tooltip="In which share of the "
                               "steps the words keep the places that they have in the source. The authors: 0.8."),
                io.Float.Input("self_steps", default=0.4, min=0.0, max=1.0, step=0.05, tooltip="In which share of the "
                               "steps the picture keeps its layout and shapes. The authors: 0.4; less lets shapes "
                               "change more."),
                io.Int.Input("self_size", default=32, min=0, max=1024, tooltip="Only layers of at most so many cells a "
                             "side keep the layout. The authors: 32 for real pictures, 16 for generated ones."),
                io.String.Input("weights", default="", tooltip="Words of the target made stronger or weaker, such as "
                                "snowy: 2, bushes: 0.5. Empty leaves all as they are."),
                io.String.Input("blend_source", default="", tooltip="Words of the source whose place may change, such "
                                "as fish; everything else is kept. Empty in both: the whole picture may change."),
                io.String.Input("blend_target", default="", tooltip="Words of the target whose place may change."),
                io.Float.Input("threshold", default=0.3, min=0.01, max=0.99, step=0.01, tooltip="How strong a word "
                               "must be at a place, against its strongest one. The authors: 0.3. More keeps more."),
                io.Float.Input("blend_start", default=0.2, min=0.0, max=1.0, step=0.05, tooltip="From which share of "
                               "the steps on the rest is kept. The authors: 0.2."),
                io.Int.Input("chunk", default=0, min=0, max=4096, tooltip="Frames in one call of the U-Net. 0 chooses "
                             "by free memory. The result does not depend on it."),
            ],
            outputs=[
                model_output(),
                io.Conditioning.Output(display_name="positive", tooltip="The target, for the sampler's positive."),
                io.Conditioning.Output(display_name="source", tooltip="The source, for Null-Text Inversion or "
                                       "DDIM Inversion."),
            ],
        )

    @classmethod
    def execute(cls, model, clip, source, target, edit, cross_steps, self_steps, self_size, weights, blend_source,
                blend_target, threshold, blend_start, chunk) -> io.NodeOutput:
        from .. import backends
        from ..methods.prompt_to_prompt import LocalBlend, SourceText, align, marked, token_weights

        backend = backends.of(model)
        before, after = (read(backend, clip, name, text) for name, text in (("source", source), ("target", target)))
        blend = None
        if blend_source.strip() or blend_target.strip():
            old_words = marked("blend_source", before, blend_source) if blend_source.strip() else None
            new_words = marked("blend_target", after, blend_target) if blend_target.strip() else None
            blend = LocalBlend(old_words, new_words, threshold, blend_start)
        old, new = (clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (source, target))
        out = with_method(model, "prompt-to-prompt", source=SourceText(old), alignment=align(before, after, edit),
                          weights=token_weights(after, weights) if weights.strip() else None, cross_steps=cross_steps,
                          self_steps=self_steps, self_size=self_size, blend=blend, chunk=chunk)
        return io.NodeOutput(out, new, old)


def read(backend: Any, clip: Any, name: str, text: str) -> Any:
    """The words and tokens of a prompt. Raises ValueError where it is empty."""
    if not text.strip():
        raise ValueError(f"{name}: is empty; write what the clip {'shows' if name == 'source' else 'shall show'}.")
    return backend.text_tokens(clip, text)


NODES = [PromptToPrompt]
