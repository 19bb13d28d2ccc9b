"""A test double: a few thousand parameters behind the same protocol as the real hosts."""

from .backend import DoubleBackend, RecordedProgress
from .unet import DoubleModel, DoubleUNet, double_model

__all__ = ["DoubleBackend", "DoubleModel", "DoubleUNet", "RecordedProgress", "double_model"]
