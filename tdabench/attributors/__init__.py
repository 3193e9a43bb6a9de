"""Methods: a file here is a method that an experiment may name; their plumbing lies one folder down."""
