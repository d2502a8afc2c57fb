"""Geometry of tiles, spot grids, neighbors and transformations between coordinate systems."""
