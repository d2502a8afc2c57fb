"""Cross-validation by patient, and agreement with measured genes."""
