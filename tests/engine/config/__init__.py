"""Tests of htd.engine.config."""
