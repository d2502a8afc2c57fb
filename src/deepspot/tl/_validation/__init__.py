"""Nested cross-validation without leakage: splits, scores, records and statistics. Arrays in, arrays out."""
