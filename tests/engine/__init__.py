"""Tests of htd.engine."""
