"""Families of checkpoints, one module each; see `registry`."""
