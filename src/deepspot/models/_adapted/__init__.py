"""Predictors of other packages as models."""
