"""Rules about the source text itself: which module may import which, and what may not be written where."""
