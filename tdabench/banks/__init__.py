"""Banks as artefacts: one file that others can score against, made from our results or from arrays of others."""
