"""Room 4, one file a method: from trained checkpoints and examples to scores."""
