"""Stores: many latents in few files, written by one or several processes."""
