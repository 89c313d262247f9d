"""Tests of the commands under tools/ that make data and the demo."""
