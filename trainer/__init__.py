"""Trains: one attempt, one process. Knows nothing about who started it or what happens after it ends."""
