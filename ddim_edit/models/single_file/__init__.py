"""Checkpoint families that come as one file."""
