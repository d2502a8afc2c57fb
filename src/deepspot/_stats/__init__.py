"""Statistics of expression: normalization, agreement, spatial null models, the gamma-Poisson posterior."""
