"""Methods on a set of clips that nobody knows the true edits of."""
