"""Where files are written, and how: names that stay inside their folder, files that are whole or not there."""
