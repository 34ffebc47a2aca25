"""Supervises: decides, spawns, watches, tells. Never imports torch."""
