"""Demo of the command line."""
