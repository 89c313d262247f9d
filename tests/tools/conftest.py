"""The installer runs before any package is there, so it imports its parts from the folder beside it."""

import sys

from tests.static.source import ROOT

sys.path.append(str(ROOT / "tools"))
