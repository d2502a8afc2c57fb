"""Access to SpatialData: lookup of images, spots and tables, and all writing."""
