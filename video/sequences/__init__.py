"""Numbered pictures as a clip: their names, one picture in and out, and the frames of a whole sequence."""
