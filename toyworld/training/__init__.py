"""How the toy models were trained and measured. Part of the repository, not of the wheel."""
