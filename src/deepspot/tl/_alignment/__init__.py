"""Whether measured spots lie where the image says."""
