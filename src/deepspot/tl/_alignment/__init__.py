"""Registration check: whether the measured spots are at the right place in the image."""
