"""Prompt-to-Prompt (Hertz et al., 2022): an edit by words that keeps the source prompt's attention maps."""

from .control import PromptToPrompt, SourceText, build_prompt_to_prompt
from .local_blend import LocalBlend
from .words import Alignment, TextTokens, align, marked, token_weights

__all__ = ["Alignment", "LocalBlend", "PromptToPrompt", "SourceText", "TextTokens", "align", "build_prompt_to_prompt",
           "marked", "token_weights"]
