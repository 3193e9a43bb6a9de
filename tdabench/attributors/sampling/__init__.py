"""Draws from a local posterior: SGLD and its kin, and the Laplace approximation."""
