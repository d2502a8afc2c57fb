"""Calibration of any model on measured slides: expected r, out-of-distribution reference, and corrections."""
