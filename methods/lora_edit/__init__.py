"""LoRA-Edit (Gao et al.): a LoRA on an image-to-video model that learns what the mask beside the condition means."""
