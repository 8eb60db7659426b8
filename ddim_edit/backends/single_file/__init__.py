"""Single-file checkpoints of research code bases, told apart by the names of their tensors."""

from ddim_edit.backends.single_file.loading import FAMILIES, SUFFIXES, load_single_file

__all__ = ["FAMILIES", "SUFFIXES", "load_single_file"]
