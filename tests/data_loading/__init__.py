"""Tests of htd.data."""
