"""Room 5, is it right: scores against retrained losses."""
