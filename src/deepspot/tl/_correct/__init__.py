"""Correction of measured genes with a prediction."""
