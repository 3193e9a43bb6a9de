"""Room 3, the ground truth: the training recipe, the loss, and the bank of retrained models."""
