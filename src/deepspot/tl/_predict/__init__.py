"""Prediction of spots, sub-spots and grids, in memory or streamed to disk."""
