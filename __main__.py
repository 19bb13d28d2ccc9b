"""``python -m steadyedit``, or ``python FOLDER`` in a clone that is not installed: see ``standalone.cli``."""

if __package__:
    from .standalone.cli import main
else:
    # The folder itself was named: it is the package, and its inner ones must not shadow others of their names.
    import importlib.util
    import sys
    from pathlib import Path

    root = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if not entry or Path(entry).resolve() != root]
    spec = importlib.util.spec_from_file_location("steadyedit", root / "__init__.py",
                                                  submodule_search_locations=[str(root)])  # fmt: skip
    sys.modules["steadyedit"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    main = importlib.import_module("steadyedit.standalone.cli").main

if __name__ == "__main__":
    raise SystemExit(main())
