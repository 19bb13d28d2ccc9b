"""The papers as modules, recipes and plain pipeline functions. Nothing here knows a host."""
