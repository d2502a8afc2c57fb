"""Basics without knowledge of slides: settings, logging, argument checks, names, hashes, devices, HTML pages."""
