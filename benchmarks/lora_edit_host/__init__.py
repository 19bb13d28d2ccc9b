"""LoRA-Edit's training on the host's own video model, with the host's Python."""
