"""EI2 and its rivals on the toy world's edits."""
