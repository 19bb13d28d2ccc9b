"""Long clips in approximate windows, against the same clip in one piece and in pieces of its own."""
