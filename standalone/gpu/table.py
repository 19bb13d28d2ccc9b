"""The pieces of ``gpu``, in order of what a first GPU should tell first."""

from __future__ import annotations

from . import host, machine, measures
from .pieces import Piece

NETWORKS = ("diffusers", "transformers", "einops", "safetensors", "scipy", "PIL", "tqdm", "filelock")
WORLD = (*NETWORKS, "skimage", "psutil")
VIDEO = (*NETWORKS, "psutil")

PIECES = (
    Piece("machine", "The machine and its rate of matrix products", machine.machine, ("tqdm",), least=20),
    Piece("tests", "The tests marked cuda", machine.cuda_tests, ("pytest", *NETWORKS)),
    Piece("kernels_fp16", "Kernels against SDPA and FlexAttention, float16", measures.kernels,
          ("einops", "tqdm", "scipy"), {"dtype": "float16"}, 120),
    Piece("ei2", "EI2 at the paper's size", measures.ei2, (*NETWORKS, "psutil"), least=120),
    Piece("lora_edit_14B", "LoRA-Edit, Wan 2.1 14B", measures.lora_edit, VIDEO, {"model": "14B"}, 120),
    Piece("lora_edit_1.3B", "LoRA-Edit, Wan 2.1 1.3B", measures.lora_edit, VIDEO, {"model": "1.3B"}, 90),
    Piece("lora_edit_host", "LoRA-Edit, ComfyUI's Wan 2.1 14B in 16 GB", host.lora_edit, (), least=240),
    Piece("via", "VIA, frames a second", measures.via, (*NETWORKS, "psutil"), least=90),
    Piece("host", "A real ComfyUI and its memory", host.host, (), least=120),
    Piece("kernels_bf16", "Kernels against SDPA and FlexAttention, bfloat16", measures.kernels,
          ("einops", "tqdm", "scipy"), {"dtype": "bfloat16"}, 120),
    *(Piece(f"toy_{name}", f"The toy table of {name}", measures.toy_table,
            (*WORLD, "kornia") if name == "via" else WORLD, {"name": name}, 120)
      for name in ("ei2", "dape", "via", "lora_edit")),
)  # fmt: skip
