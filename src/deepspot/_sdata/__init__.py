"""Elements of a SpatialData: selected, matched by instance, written."""
