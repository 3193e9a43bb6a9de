"""The experiment file: sections, components, and what each job depends on. Imports no torch."""
