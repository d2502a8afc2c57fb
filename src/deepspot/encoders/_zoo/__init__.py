"""Encoders with published weights: cards, networks and loading of weights."""
