"""``python -m steadyedit``: see ``standalone.cli``."""

from .standalone.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
