"""HTD and its relatives on Detectron2; importing it adds their classes to Detectron2's registries."""

import sys

from htd.requirements import check_requirements

__version__ = "0.1.0"

# `python -m htd.collect_env` has to describe the very environments that the check refuses.
if "htd.collect_env" not in sys.orig_argv:
    check_requirements()

    from htd import modeling

    __all__ = ["modeling"]
