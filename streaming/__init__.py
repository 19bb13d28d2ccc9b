"""Clips of any length, edited a window of frames at a time: one engine for the node and for the command line."""
