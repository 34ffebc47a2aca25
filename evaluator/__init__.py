"""Scores: a checkpoint in, a report out. Knows nothing about how the checkpoint came to be."""
