"""Properties of a method (the paper's Table 2), each found by running it on a made-up problem."""
