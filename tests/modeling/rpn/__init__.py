"""Tests of the region proposal network."""
