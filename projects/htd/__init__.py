"""HTD and its relatives on Detectron2; importing it adds their classes to Detectron2's registries."""

import sys
import warnings

from htd.requirements import check_requirements

__version__ = "0.1.0"

# torch says this of functions that Detectron2 and its libraries compile while they are imported: two lines
# about nothing of ours before each message of ours. It can be silenced at no later place.
warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated", category=FutureWarning)

# `python -m htd.collect_env` has to describe the very environments that the check refuses.
if "htd.collect_env" not in sys.orig_argv:
    check_requirements()

    from htd import modeling

    __all__ = ["modeling"]
