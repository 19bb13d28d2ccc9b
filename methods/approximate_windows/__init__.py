"""Long clips for methods that need the whole one, approximately: overlapping windows with shared frames in each."""

from .plan import ApproximateWindows, build_approximate_windows
from .windows import ANCHORS, Window, anchors_of, windows_of

__all__ = ["ANCHORS", "ApproximateWindows", "Window", "anchors_of", "build_approximate_windows", "windows_of"]
