"""Files of results: where they lie, their records, whole or absent."""
