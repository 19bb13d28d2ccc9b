"""The choice of a base that flickers, for ``bench dape``."""
