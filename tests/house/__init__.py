"""Tests of what surrounds the systems: installation, packaging, errors, the environment, the commands."""
