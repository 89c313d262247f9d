"""Tests of SALT-Net and of its operator in other detectors."""
