"""This pack's work beside that of others that do the same, in one run."""
