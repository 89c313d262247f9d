"""Checks, before anything else is imported, that torch, torchvision and Detectron2 are there and fit."""

from __future__ import annotations

import importlib

HOW_TO_INSTALL = """
From the project's folder, in this order:
  pip install torch torchvision                    (together; add --force-reinstall if they do not match)
and then one of
  python tools/install_detectron2.py               (pure Python from PyPI, no compiler needed)
  python tools/install_detectron2.py --official    (the official commit; needs git and a C++ compiler)
`make setup` does all of it in a new environment; `python -m htd.collect_env` shows what there is."""


def check_requirements() -> None:
    """Import what the package stands on.

    Raises:
        ImportError: torch, torchvision or Detectron2 is missing or cannot be imported, or torchvision was
            built for another torch; the message names the problem and the commands that cure it.
    """
    problem = find_problem()
    if problem:
        # Without the chain of causes: the reader is to see one error, and its cause is quoted in it.
        raise ImportError(f"htd cannot be imported: {problem}\n{HOW_TO_INSTALL}") from None


def find_problem() -> str | None:
    """Say in one line what is wrong with torch, torchvision and Detectron2; None if they can be used."""
    for module in ("torch", "torchvision", "detectron2.modeling"):
        package = module.partition(".")[0]
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name == package:
                return f"{package} is not installed."
            return f"{package} cannot be imported ({error})."
        except Exception as error:  # a torchvision built for another torch ends in almost any kind of error
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            if package == "torchvision":
                return f"torch and torchvision do not match ({reason})."
            return f"{package} cannot be imported ({reason})."
        if package == "torchvision" and not torchvision_operators_loaded():
            return "torch and torchvision do not match (torchvision's operators are not loaded)."
    return None


def torchvision_operators_loaded() -> bool:
    """Whether torchvision's compiled operators fit the torch that is installed; imports torchvision."""
    return importlib.import_module("torchvision.extension")._has_ops()
