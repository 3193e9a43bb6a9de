"""From traces of losses over draws to scores: covariances, correlations, of examples and of tokens."""
