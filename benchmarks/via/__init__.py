"""VIA and its rivals on instructions."""
