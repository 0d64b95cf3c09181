"""A bundle's files: built from a student, written as a whole."""
