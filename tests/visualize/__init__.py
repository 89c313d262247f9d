"""Tests of htd.visualize."""
