"""Space as arithmetic: the geometry of tiles, where spots lie in an image, boxes of pixels, neighbors."""
