"""Packages that only some need."""

import importlib.util


def check_installed(*names: str, extra: str) -> None:
    """Refuses in one line where one of these packages is missing. extra: the name under which pip installs them with snnfast."""
    missing = next((name for name in names if importlib.util.find_spec(name) is None), None)
    if missing:
        raise ValueError(f"this wants the package {missing}: pip install {' '.join(names)}, or snnfast[{extra}]")
