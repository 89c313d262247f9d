"""Speed, memory and accuracy side by side: what ``tools/benchmark.py`` and ``tools/compare.py`` run."""

from pathlib import Path

# Benchmarks need the checkout: configs and train_net.py are not part of the package.
ROOT = Path(__file__).resolve().parents[3]
