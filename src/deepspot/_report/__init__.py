"""The report of a slide."""
