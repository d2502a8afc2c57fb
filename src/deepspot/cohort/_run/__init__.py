"""Prediction of many slides: manifest, runners, run table, and the output folder, which allows resuming."""
