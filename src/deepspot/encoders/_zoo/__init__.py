"""Encoders whose weights others publish: their cards, networks and weights."""
