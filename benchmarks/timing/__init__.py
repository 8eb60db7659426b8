"""What `speed.py` measures with, piece by piece."""
