"""Room 2, what is trained: builders of networks."""
