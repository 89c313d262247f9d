"""Tests of checkpoint conversion."""
