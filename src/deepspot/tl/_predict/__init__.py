"""Prediction of spots, sub-spots, grids and cells, in memory or streamed to disk."""
