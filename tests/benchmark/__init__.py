"""Tests of what tools/benchmark.py and tools/compare.py run."""
