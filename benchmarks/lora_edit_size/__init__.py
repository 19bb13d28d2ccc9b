"""LoRA-Edit's training at the size of real video models."""
