"""``python -m steadyedit verify``: a shipped graph on real weights, and one folder of what it gave to share."""
