"""Single-file checkpoints of research code bases, told apart by the names of their tensors."""
