"""Run the toy graphs with no ComfyUI installed, or any graph in a ComfyUI of its own; and the command line."""
