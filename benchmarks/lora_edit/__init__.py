"""LoRA-Edit and its rivals on the toy video model."""
