"""DAPE and its rivals, over every base."""
