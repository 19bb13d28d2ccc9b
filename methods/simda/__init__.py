"""SimDA (Xing et al., CVPR 2024): latent-shift attention and small adapters, on a frozen image model.

Published, in the authors' code for one clip; of the text its equations of the attention and what it says of the
adapters' kind were read, not the whole:

- latent-shift attention in the place of self-attention, with the model's own projections; the pattern of the shifts;
- a spatial adapter on what self-attention gives, one beside the feed-forward, which reads the tokens before the norm:
  a quarter of the channels, GELU, Up = 0 at the start;
- a temporal adapter on what goes into each transformer: half of the channels, a depth-wise convolution over 3 frames
  in the place of an activation, no norm, Up = 0 at the start;
- these adapters are trained and nothing else: AdamW, 300 steps at 5e-5 (200 to 500, says their README), mean square
  error; sampling in 50 steps at guidance 12.5 from the clip's DDIM inversion.

Chosen here: maps of any size (theirs are square), one draw of the initial weights from a seed, and the temporal
adapters of all transformers at work in training. Their code skips those of the way down and up while it trains with
gradient checkpointing, as its configuration does, so that the middle one alone learns.
"""

from .adapters import SpatialAdapter, TemporalAdapter
from .simda import build_simda

__all__ = ["SpatialAdapter", "TemporalAdapter", "build_simda"]
