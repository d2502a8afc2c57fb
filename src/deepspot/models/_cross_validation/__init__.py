"""Compare models by cross-validation over patients."""
