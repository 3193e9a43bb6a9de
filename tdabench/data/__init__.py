"""What is attributed: a file here is a dataset that an experiment may name."""
