"""Statistics that several questions use: tensors in, numbers out."""
