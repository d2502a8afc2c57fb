"""The interactive viewer of a slide."""
