"""The truth, whoever made it: subsets, retrained losses, and banks from elsewhere."""
