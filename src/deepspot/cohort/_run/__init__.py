"""Prediction of many slides: manifest, workers, run table, and the folder that can be resumed."""
