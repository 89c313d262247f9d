"""Tests of every leaf under configs/."""
