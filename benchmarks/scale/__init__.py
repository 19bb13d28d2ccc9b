"""How a streamed edit grows with the clip's length and shrinks with processes."""
