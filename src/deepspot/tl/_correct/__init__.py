"""Measured genes corrected by the prediction."""
