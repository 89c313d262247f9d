"""Tests of htd.evaluation."""
