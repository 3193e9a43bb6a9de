"""What an experiment can ask, a folder each: its numbers, tables, figures, words and stage."""
