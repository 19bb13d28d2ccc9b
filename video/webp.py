"""Animated WebP, which FFmpeg does not read, as a film that it does: the same pictures at the same times."""

from __future__ import annotations

import io
from fractions import Fraction
from functools import lru_cache

import av
import numpy as np

#: Milliseconds that browsers show a picture for which the file says less than 11.
_LEAST, _INSTEAD = 11, 100


def is_animated(head: bytes) -> bool:
    """Whether a file that begins so is an animated WebP."""
    return head[:4] == b"RIFF" and head[8:16] == b"WEBPVP8X" and len(head) > 20 and bool(head[20] & 2)


# A clip is opened several times while it is read: the last one is kept.
@lru_cache(maxsize=1)
def as_film(data: bytes) -> bytes:
    """The bytes of a mov with the file's pictures in PNG, alpha and milliseconds included.

    Raises:
        OSError, ValueError, SyntaxError, EOFError: it is damaged, or Pillow cannot read WebP; the caller has the
            sentence.
    """
    from PIL import Image

    film = io.BytesIO()
    with Image.open(io.BytesIO(data)) as image, av.open(film, "w", format="mov") as output:
        stream = output.add_stream("png", rate=Fraction(1000))
        stream.width, stream.height = image.size
        stream.pix_fmt = "rgba"
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for index in range(image.n_frames):
            image.seek(index)
            image.load()
            shown = image.info.get("duration", 0)
            frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGBA")), format="rgba")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            shown = int(shown) if shown >= _LEAST else _INSTEAD
            for packet in stream.encode(frame):
                packet.duration = shown
                output.mux(packet)
            time += shown
        output.mux(stream.encode(None))
    return film.getvalue()
