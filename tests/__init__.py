"""Test suite of the project."""
