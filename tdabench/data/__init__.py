"""Room 1, what is attributed: datasets, and how they are split."""
