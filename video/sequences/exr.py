"""What an OpenEXR file's header says: what can be read here exactly, and what must be refused.

FFmpeg's reader gives wrong pictures without a word for some files: a cut one is black below, float
channels under DWA become NaN. So the header is asked first (openexr.com, "OpenEXR File Layout").
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

COMPRESSIONS = ("none", "RLE", "ZIPS", "ZIP", "PIZ", "PXR24", "B44", "B44A", "DWAA", "DWAB")
_LINES = (1, 1, 1, 16, 32, 16, 32, 32, 32, 256)
UINT, HALF, FLOAT = range(3)
_TILED, _DEEP, _PARTS = 0x200, 0x800, 0x1000
_REC709 = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, 0.3127, 0.329)


@dataclass(frozen=True)
class Header:
    """Of the first part of a file.

    Args:
        channels: type (``UINT``, ``HALF``, ``FLOAT``) by name.
        parts: how many the file has.
        rec709: its primaries are those of Rec. 709, or unsaid.
        complete: the file is not cut short.
    """

    channels: dict[str, int]
    compression: int
    deep: bool
    parts: int
    rec709: bool
    complete: bool

    def layer(self, wanted: str = "") -> str | None:
        """The layer to read: the wanted one, else that without a name, else the first with colours; None if none."""
        layers = self.layers()
        return next((name for name in (layers if not wanted else [wanted]) if name in layers), None)

    def layers(self) -> list[str]:
        """Names of layers with R, G and B, or the unnamed one with Y alone; the unnamed first."""
        names = sorted({name.rpartition(".")[0] for name in self.channels})
        colours = [name for name in names if all(self.key(name, c) in self.channels for c in "RGB")]
        return [""] + colours if "Y" in self.channels and "" not in colours else colours

    @staticmethod
    def key(layer: str, channel: str) -> str:
        return f"{layer}.{channel}" if layer else channel

    def unreadable(self, layer: str) -> str:
        """Why FFmpeg's reader would give no picture, or a wrong one; "" where it is right."""
        types = {self.channels[key] for c in "RGBAY" if (key := self.key(layer, c)) in self.channels}
        if self.deep:
            return "it holds deep data"
        if "RY" in self.channels:
            return "its colours are stored as luminance and chroma"
        if len(types) > 1:
            return "its colours and its alpha are stored with different precision"
        if UINT in types:
            return "its channels are whole numbers"
        if FLOAT in types and self.compression >= 8:
            return f"it holds float channels under {COMPRESSIONS[self.compression]}"
        return ""


def read_header(data: bytes) -> Header:
    """Read the header of a file's bytes, and whether all of its blocks are there.

    Raises:
        ValueError: it is no OpenEXR file, or damaged; the caller has the sentence.
    """
    try:
        magic, version = struct.unpack_from("<II", data)
        if magic != 20000630:
            raise ValueError("no OpenEXR file")
        parts, position = bool(version & _PARTS), 8
        headers: list[dict[str, bytes]] = []
        while not headers or (parts and data[position]):
            header, position = _attributes(data, position)
            headers.append(header)
        tiled, first = bool(version & _TILED), headers[0]
        primaries = first.get("chromaticities", b"")
        declared = struct.unpack("<8f", primaries) if len(primaries) == 32 else _REC709
        complete = _complete(data, position + parts, headers, tiled, parts)
        return Header(_channels(first["channels"]), first["compression"][0], bool(version & _DEEP), len(headers),
                      max(abs(a - b) for a, b in zip(declared, _REC709, strict=True)) < 0.01, complete)
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError("damaged header") from error


def _attributes(data: bytes, position: int) -> tuple[dict[str, bytes], int]:
    """Attributes by name, and where they end."""
    attributes = {}
    while data[position]:
        end = data.index(b"\0", position)
        kind_end = data.index(b"\0", end + 1)
        (size,) = struct.unpack_from("<i", data, kind_end + 1)
        begin = kind_end + 5
        if size < 0 or begin + size > len(data):
            raise ValueError("damaged header")
        attributes[data[position:end].decode("latin-1")] = data[begin : begin + size]
        position = begin + size
    return attributes, position + 1


def _channels(data: bytes) -> dict[str, int]:
    position, channels = 0, {}
    while data[position]:
        end = data.index(b"\0", position)
        (channels[data[position:end].decode("latin-1")],) = struct.unpack_from("<i", data, end + 1)
        position = end + 17
    return channels


def _blocks(header: dict[str, bytes], tiled: bool) -> int:
    """How many blocks a part has; 0 where that is not said plainly (pictures in several sizes)."""
    if "chunkCount" in header:
        return int.from_bytes(header["chunkCount"], "little")
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    if not tiled:
        return -(-(bottom - top + 1) // _LINES[header["compression"][0]])
    width, height, mode = struct.unpack("<IIB", header["tiles"])
    return -(-(right - left + 1) // width) * -(-(bottom - top + 1) // height) if mode & 15 == 0 else 0


def _complete(data: bytes, table: int, headers: list[dict[str, bytes]], tiled: bool, parts: bool) -> bool:
    """Whether every block lies inside of the file."""
    for header in headers:
        in_tiles = header.get("type", b"").startswith(b"tiled") if parts else tiled
        blocks = _blocks(header, in_tiles)
        # Before its pixels a block has its part, its line or its tile's place, and its size.
        size_at = 4 * parts + (16 if in_tiles else 4)
        for place in struct.unpack_from(f"<{blocks}Q", data, table):
            if place + size_at + 4 > len(data):
                return False
            if place + size_at + 4 + struct.unpack_from("<i", data, place + size_at)[0] > len(data):
                return False
        table += 8 * blocks
    return True
