"""Room 6, what one looks at: tables and figures."""
