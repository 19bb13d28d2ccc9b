"""``python -m steadyedit gpu``: all that a first GPU can tell, in pieces of less than ten minutes."""
