"""What is trained: a file here is a network that an experiment may name."""
