"""What every layer uses and what knows nothing of slides: settings, logging, checks, names, hashes, devices."""
