"""Stand-ins for core nodes of the host that the toy graphs use, same ids and inputs; sampling is in core_sampling."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw

from ..files.places import current
from ..files.writing import whole
from ..video.clip import as_rate
from .host_api import ComfyNode, NodeOutput, schema
from .video_values import Video, VideoComponents


def save_picture(picture: Image.Image, prefix: str) -> None:
    """A PNG in the output folder; raises as ``files`` does."""
    with whole(current().free_path(prefix, ".png", size=picture.size)) as temporary:
        picture.save(temporary, "PNG")


class CLIPTextEncode(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("CLIPTextEncode", {"text": "STRING", "clip": "CLIP"}, "CONDITIONING")

    @classmethod
    def execute(cls, text, clip):
        return NodeOutput(clip.encode_from_tokens_scheduled(clip.tokenize(text)))


class VAEEncode(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        return schema("VAEEncode", {"pixels": "IMAGE", "vae": "VAE"}, "LATENT")

    @classmethod
    def execute(cls, pixels, vae):
        return NodeOutput({"samples": vae.encode(pixels)})


class VAEDecode(ComfyNode):
    frame_by_frame = True

    @classmethod
    def define_schema(cls):
        return schema("VAEDecode", {"samples": "LATENT", "vae": "VAE"}, "IMAGE")

    @classmethod
    def execute(cls, samples, vae):
        return NodeOutput(vae.decode(samples["samples"]))


class LoadVideo(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("LoadVideo", {"file": "STRING"}, "VIDEO")

    @classmethod
    def execute(cls, file):
        return NodeOutput(Video(path=current().find(file)))


class GetVideoComponents(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("GetVideoComponents", {"video": "VIDEO"}, "IMAGE AUDIO FLOAT")

    @classmethod
    def execute(cls, video):
        parts = video.get_components()
        return NodeOutput(parts.images, parts.audio, float(parts.frame_rate))


class CreateVideo(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {
            "images": "IMAGE", "fps": ("FLOAT", {"min": 1.0, "max": 120.0}), "audio": ("AUDIO", {"optional": True}),
            "bit_depth": ("INT", {"optional": True, "min": 8, "max": 10}),
        }  # fmt: skip
        return schema("CreateVideo", inputs, "VIDEO")

    @classmethod
    def execute(cls, images, fps, audio=None, bit_depth=8):
        return NodeOutput(Video(VideoComponents(images, as_rate(fps), audio)))


class SaveVideo(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {
            "video": "VIDEO", "filename_prefix": "STRING", "format": ("COMBO", {"options": ("auto", "mp4")}),
            "codec": ("COMBO", {"options": ("auto", "h264"), "optional": True}),
        }  # fmt: skip
        return schema("SaveVideo", inputs, "VIDEO", saves=True)

    @classmethod
    def execute(cls, video, filename_prefix, format, codec="auto"):
        # The size costs decoding the video.
        size = video.get_dimensions() if "%" in filename_prefix else (0, 0)
        video.save_to(current().free_path(filename_prefix, ".mp4", size))
        return NodeOutput(video)


class SaveImage(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("SaveImage", {"images": "IMAGE", "filename_prefix": "STRING"}, saves=True)

    @classmethod
    def execute(cls, images, filename_prefix="preview"):
        for image in images:
            pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            save_picture(Image.fromarray(np.ascontiguousarray(pixels)), filename_prefix)
        return NodeOutput()


class RepeatImageBatch(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("RepeatImageBatch", {"image": "IMAGE", "amount": ("INT", {"min": 1, "max": 4096})}, "IMAGE")

    @classmethod
    def execute(cls, image, amount):
        return NodeOutput(image.repeat(amount, 1, 1, 1))


class ImageFromBatch(ComfyNode):
    @classmethod
    def define_schema(cls):
        inputs = {"image": "IMAGE", "batch_index": "INT", "length": ("INT", {"min": 1, "max": 4096})}
        return schema("ImageFromBatch", inputs, "IMAGE")

    @classmethod
    def execute(cls, image, batch_index, length):
        # Negative counts from the end; what lies outside of the batch is moved to its nearest picture.
        start = max(0, min(len(image) - 1, batch_index + len(image) * (batch_index < 0)))
        return NodeOutput(image[start : start + length].clone())


class PreviewImage(SaveImage):
    @classmethod
    def define_schema(cls):
        return schema("PreviewImage", {"images": "IMAGE"}, saves=True)


class LossGraphNode(ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema("LossGraphNode", {"loss": "LOSS_MAP", "filename_prefix": "STRING"}, saves=True)

    @classmethod
    def execute(cls, loss, filename_prefix):
        values = [float(value) for value in loss["loss"]]
        low, span = min(values), (max(values) - min(values)) or 1.0
        picture = Image.new("RGB", (840, 520), "white")
        draw = ImageDraw.Draw(picture)
        points = [(40 + 790 * i / max(len(values) - 1, 1), 480 - 460 * (v - low) / span) for i, v in enumerate(values)]
        draw.line([(40, 10), (40, 480), (830, 480)], fill="black", width=2)
        draw.line(points * 2 if len(points) == 1 else points, fill="blue", width=2)
        draw.text((44, 490), f"loss {max(values):.4g} down to {low:.4g} in {len(values)} steps", fill="black")
        save_picture(picture, filename_prefix)
        return NodeOutput()


NODES = {node.__name__: node for node in (
    CLIPTextEncode, VAEEncode, VAEDecode, LoadVideo, GetVideoComponents, CreateVideo, SaveVideo, SaveImage,
    RepeatImageBatch, ImageFromBatch, PreviewImage, LossGraphNode)}
