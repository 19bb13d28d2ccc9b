"""The names that LoRA-Edit's settings have; imports nothing, so that nodes can show them at once."""

from __future__ import annotations

WAN, HUNYUAN, HUNYUAN_15 = "Wan 2.1 I2V", "HunyuanVideo I2V v1", "HunyuanVideo 1.5 I2V"
HUNYUAN_2 = "HunyuanVideo I2V v2"
FAMILIES = (WAN, HUNYUAN, HUNYUAN_15, HUNYUAN_2)

#: What of the clip is kept. The paper's figure 2 calls "first frame" the default of image-to-video, "nothing" case 1,
#: "everything" case 2; "outside, first frame" is its case 3 and what LoRA-Edit trains. "outside" alone serves single
#: edited frames.
KEEPS = ("outside, first frame", "outside", "first frame", "nothing", "everything")

#: How a mask comes to the latent's size: any masked pixel counts, or the authors' nearest.
POOLINGS = ("any", "official")

#: What stands where the model generates: 0 in its -1 .. 1, as in Wan's own image-to-video, or the authors' 128 of 255.
GRAYS = {"mid-gray": 0.5, "official": 128 / 255}

#: Which Linear layers of the blocks: all as in the authors' code, or those that their paper names.
TARGETS = ("attention and feed-forward", "attention only")

#: Which part of the noise an expert of Wan 2.2 serves.
NOISE_RANGES = {"all": (0.0, 1.0), "high (Wan 2.2 high-noise expert)": (0.9, 1.0),
                "low (Wan 2.2 low-noise expert)": (0.0, 0.9)}  # fmt: skip

#: What is computed with: bfloat16 where the device computes in it, or float32.
PRECISIONS = ("auto", "float32")

#: Steps of a clip that is sampled during a training, to be looked at.
SHOWN_STEPS = 8

#: GB of a card that a training is made to fit into; None: what the device has free.
MEMORY_PRESETS = {"what is free": None, "8 GB": 8, "12 GB": 12, "16 GB": 16, "24 GB": 24}
