"""Looking at clips: optical flow and the measures of an edit. Knows no host."""
