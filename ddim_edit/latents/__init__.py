"""Latents, their files and stores, spaces, interpolation, caches and exchange with other programs."""
