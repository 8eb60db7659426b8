"""What `gpu_check.py` runs, section by section."""
