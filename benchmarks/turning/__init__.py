"""Why an edited later frame does not change the colour of LoRA-Edit's result after a turn."""
